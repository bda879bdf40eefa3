"""What benchmarks write: nothing that was measured before is lost, and the documents say what the result files say."""

import argparse
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import result_files  # noqa: E402
import speed  # noqa: E402
import tables  # noqa: E402

LIMITS: result_files.Limits = {
    "one": {"one: lost": ("at most", 0), "one: found": ("at least", 3)},
    "two": {"two: seconds": ("at most", 1)},
}
BEFORE = {
    "bars": [{"name": "old: kills", "value": 4, "limit": "at least 4", "holds": True}],
    "parts": {"gone": {"bars": {"old: kills": 4}}, "one": {"bars": {"one: lost": 7}}},
}


@pytest.mark.parametrize("name", tables.TABLES)
def test_the_document_says_what_was_measured(name: str):
    text = tables.DOCUMENT.read_text(encoding="utf-8")
    assert f"{tables.marker_of(name)}{tables.table(tables.read_bars(tables.TABLES[name]))}\n\n" in text


def test_every_table_of_the_document_is_written_by_the_program():
    markers = [line for line in tables.DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("<!-- ")]
    assert {f"{line}\n" for line in markers} == {
        tables.marker_of(name) for name in (*tables.TABLES, "quality", "quality of small")
    }


def test_the_document_on_speed_says_what_was_measured():
    table = speed.gpu_table(json.loads(speed.RESULT.read_text())["parts"]["gpu"])
    assert f"{tables.marker_of('gpu')}{table}\n\n" in speed.DOCUMENT.read_text(encoding="utf-8")


def run(path: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> dict:
    """What a benchmark with these limits leaves in its result file."""
    monkeypatch.setattr(sys, "argv", ["benchmark", *words])
    measure = {"one": {"bars": {"one: lost": 0, "one: found": 2}}, "two": {"bars": {"two: seconds": 0.5}}}
    result_files.run_parts(argparse.ArgumentParser(), path, LIMITS, lambda part, args: dict(measure[part]))
    return json.loads(path.read_text())


def test_what_is_measured_again_takes_its_own_place_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "some.json"
    path.write_text(json.dumps(BEFORE))
    found = run(path, monkeypatch, "--parts", "one")
    bars = {bar["name"]: (bar["value"], bar["holds"]) for bar in found["bars"]}
    assert bars == {
        "one: lost": (0, True),
        "one: found": (2, False),
        "two: seconds": (None, False),
        "old: kills": (4, True),
    }
    assert found["parts"]["gone"] == BEFORE["parts"]["gone"]
    assert found["parts"]["one"]["commit"]
    both = run(path, monkeypatch)
    assert set(both["parts"]) == {"gone", "one", "two"}
    assert tables.table(both["bars"]).splitlines()[2:] == [
        "| one | lost **0** (at most 0); found **2, missed** (at least 3) |",
        "| two | seconds **0.5** (at most 1) |",
        "| old | kills **4** (at least 4) |",
    ]


def test_a_quick_look_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    path = tmp_path / "some.json"
    path.write_text(json.dumps(BEFORE))
    assert run(path, monkeypatch, "--quick") == BEFORE
    assert "missed" in capsys.readouterr().out


def test_a_part_may_tell_what_there_is_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, seen = tmp_path / "some.json", []

    def measure(part: str, args: argparse.Namespace):
        for number in range(3):
            yield {"number": number, "bars": {"two: seconds": number}}
            seen.append(json.loads(path.read_text())["parts"]["two"]["number"])

    monkeypatch.setattr(sys, "argv", ["benchmark", "--parts", "two"])
    result_files.run_parts(argparse.ArgumentParser(), path, LIMITS, measure)
    assert seen == [0, 1, 2]
