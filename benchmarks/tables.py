"""The tables of bars in docs/measurements.md: `python benchmarks/tables.py` writes them from the result files."""

import json
from pathlib import Path
from typing import Any

from documents import put_tables

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs/measurements.md"
RESULTS = ROOT / "benchmarks/results"
TABLES = {
    "long video": ("long_video", "faults"),
    "training": ("training",),
    "front end": ("front_end",),
    "speed": ("speed",),
    "evidence": ("ablations",),
}
"""By name in the document: the results whose bars they show."""


def main() -> None:
    put_tables(DOCUMENT, {name: table(read_bars(results)) for name, results in TABLES.items()})


def read_bars(names: tuple[str, ...]) -> list[dict[str, Any]]:
    """All bars of these results, in order."""
    return [bar for name in names for bar in json.loads((RESULTS / f"{name}.json").read_text())["bars"]]


def table(bars: list[dict[str, Any]]) -> str:
    """One line for each group of bars: what a bar's name has before its colon."""
    groups: dict[str, list[str]] = {}
    for bar in bars:
        group, _, name = bar["name"].partition(": ")
        groups.setdefault(group, []).append(f"{name} **{written(bar)}** ({bar['limit']})")
    lines = [f"| {group} | {'; '.join(found)} |" for group, found in groups.items()]
    return "\n".join(["| | measured (bar) |", "|---|---|", *lines])


def written(bar: dict[str, Any]) -> str:
    """The value, and that it was missed where it was."""
    if bar["value"] is None:
        return "not measured"
    value = f"{bar['value']:.3g}" if isinstance(bar["value"], float) else f"{bar['value']:,}"
    return value if bar["holds"] else f"{value}, missed"


if __name__ == "__main__":
    main()
