"""What is committed as measured holds its bars, and the documents say what the result files say."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"
sys.path.insert(0, str(ROOT / "benchmarks"))

import decisions  # noqa: E402
import faults  # noqa: E402
import long_video  # noqa: E402
import speed  # noqa: E402
import tables  # noqa: E402
import training  # noqa: E402
from documents import marker_of  # noqa: E402
from speed_parts import written  # noqa: E402


def read(name: str) -> dict:
    """Strict JSON: what other programs can read too."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{name}.json holds {constant}")

    return json.loads((RESULTS / f"{name}.json").read_text(), parse_constant=refuse)


def test_hosts_cost_at_most_three_per_cent_and_serve_from_their_cache():
    hosts = read("host")["parts"]["server"]["hosts"]
    assert set(hosts) == {"0.3.64", "0.12.1", "0.33.0"}
    for measured in hosts.values():
        assert max(measured["share outside the core"].values()) <= 0.03
        assert measured["ran again for the same prompt"] == []
        assert measured["ran again for another seed"] == ["ARTVMaskedDiffusionSampler", "ARTVDecodeVideo"]


def test_decisions_document_holds_the_measured_tables():
    text = decisions.DOCUMENT.read_text(encoding="utf-8")
    assert text.endswith(decisions.MARKER + decisions.markdown(read("decisions")["variants"]))


def test_every_kind_of_decision_was_measured():
    found = set(read("decisions")["variants"])
    assert found >= set(decisions.SAMPLING) | set(decisions.FINE_TUNING)
    assert set(decisions.TRAINED) - found <= {"weight cap 20", "adamw"}


def test_quality_is_strict_json():
    assert read("quality")["bars"]


@pytest.mark.parametrize("name", tables.TABLES)
def test_the_document_says_what_was_measured(name: str):
    text = tables.DOCUMENT.read_text(encoding="utf-8")
    assert f"{marker_of(name)}{tables.table(tables.read_bars(tables.TABLES[name]))}\n\n" in text


@pytest.mark.parametrize("name", ["long_video", "faults", "front_end", "training", "speed", "ablations"])
def test_a_bar_holds_where_its_value_is_within_its_limit(name):
    bars = read(name)["bars"]
    assert len({bar["name"] for bar in bars}) == len(bars)
    for bar in bars:
        kind, limit = bar["limit"].rsplit(" ", 1)
        within = {"at most": lambda value, limit: value <= limit, "at least": lambda value, limit: value >= limit}[kind]
        assert bar["holds"] == (bar["value"] is not None and within(bar["value"], float(limit)))


def test_every_bar_of_the_faults_is_there():
    named = {name for part in faults.BARS.values() for name in part}
    assert {bar["name"] for bar in read("faults")["bars"]} == named


MISSED = {
    "GPU: peak memory at 512x512, GB",
    "GPU: peak memory at 768x768, GB",
    "GPU, sd21-adapter at 256x256: MFU",
    "GPU, sd21 at 256x256: MFU",
}
"""Known misses; docs/speed.md and docs/training.md say how near they came, and why."""


@pytest.mark.parametrize(("name", "limits"), [("training", training.BARS), ("speed", speed.BARS)])
def test_every_bar_is_there_and_those_measured_hold(name: str, limits: dict):
    bars = read(name)["bars"]
    assert {bar["name"] for bar in bars} == {bar for part in limits.values() for bar in part}
    assert {bar["name"] for bar in bars if bar["value"] is not None and not bar["holds"]} <= MISSED


def test_everything_about_speed_was_measured_but_what_needs_a_gpu():
    assert set(speed.BARS) - set(read("speed")["parts"]) <= {"gpu"}


def test_the_document_on_speed_holds_the_measured_tables():
    text = written.DOCUMENT.read_text(encoding="utf-8")
    tables = written.tables(read("speed")["parts"])
    assert set(tables) == set(written.TABLES)
    for name, table in tables.items():
        assert f"{marker_of(name)}{table}\n\n" in text, name


def test_memory_does_not_grow_and_nothing_is_lost():
    """Timings are not gated: a busy machine has its own."""
    for bar in read("long_video")["bars"] + read("faults")["bars"]:
        if "seconds" not in bar["name"]:
            assert bar["holds"], bar
    assert "core: MB grown from frame 100 to the end" in {bar["name"] for bar in read("long_video")["bars"]}
    assert long_video.FRAMES == read("long_video")["frames"] == 10_000


def test_the_front_end_holds_its_bars_on_every_page():
    result = read("front_end")
    assert len(result["parts"]["use"]) >= 6
    assert {kind.rsplit(", ", 1)[1] for kind in result["parts"]["use"]} == {"classic", "Nodes 2.0"}
    for bar in result["bars"]:
        assert bar["holds"], bar
