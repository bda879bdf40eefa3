"""The README's tables of bars: `python benchmarks/tables.py` writes them anew from the result files."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks/results"
TABLES = {
    "<!-- long video table -->\n": ("long_video", "faults"),
    "<!-- training table -->\n": ("training",),
    "<!-- front end table -->\n": ("front_end",),
    "<!-- speed table -->\n": ("speed",),
}
"""By the marker they stand under in the README: the results whose bars they show."""


def main() -> None:
    text = README.read_text(encoding="utf-8")
    for marker, names in TABLES.items():
        before, _, rest = text.partition(marker)
        text = before + marker + table(read_bars(names)) + "\n\n" + rest.partition("\n\n")[2]
    README.write_text(text, encoding="utf-8")


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
