"""What is committed as measured holds its bars, and the documents say what the result files say."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"
sys.path.insert(0, str(ROOT / "benchmarks"))

import decisions  # noqa: E402


def read(name: str) -> dict:
    """Strict JSON: what other programs can read too."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{name}.json holds {constant}")

    return json.loads((RESULTS / f"{name}.json").read_text(), parse_constant=refuse)


def test_hosts_cost_at_most_three_per_cent_and_serve_from_their_cache():
    hosts = read("host")["hosts"]
    assert set(hosts) == {"0.3.64", "0.12.1"}
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
