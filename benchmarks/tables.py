"""The tables of docs/measurements.md: `python benchmarks/tables.py` writes them again from the result files.

A table stands under its marker, between hand-written text. Other documents have such tables too (`put_tables`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs/measurements.md"
RESULTS = ROOT / "benchmarks/results"
TABLES = {
    "long video": ("long_video", "faults"),
    "training": ("training",),
    "front end": ("front_end",),
    "steering": ("steering",),
    "speed": ("speed",),
    "few evaluations": ("student",),
    "evidence": ("ablations",),
}
"""By name in the document: the results whose bars they show."""


def main() -> None:
    import quality  # which writes tables with what is here
    import quality_pictures

    measured = json.loads((RESULTS / "quality.json").read_text())
    small = quality_pictures.markdown(measured["world of pictures"]["small-v2"])
    made = {name: table(read_bars(results)) for name, results in TABLES.items()}
    put_tables(DOCUMENT, made | {"quality": quality.markdown(measured), "quality of small": small})


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


def put_tables(document: Path, tables: Mapping[str, str]) -> None:
    """Put each table under its marker, in place of what stands there up to the next empty line. A table whose marker
    the document lacks is left out."""
    text = document.read_text(encoding="utf-8")
    for name, table in tables.items():
        before, marker, rest = text.partition(marker_of(name))
        if marker:
            after = rest if rest.startswith("\n") else rest.partition("\n\n")[2]
            text = before + marker + table + "\n\n" + after.lstrip("\n")
    document.write_text(text, encoding="utf-8")


def marker_of(name: str) -> str:
    """Where the table of that name stands."""
    return f"<!-- table: {name} -->\n"


def as_table(header: Sequence[str], rows: Mapping[str, Sequence[str]], first: str = "measure") -> str:
    """Markdown; a row's name is its first cell, `first` stands above."""
    lines = [[first, *header], ["---"] * (len(header) + 1), *([name, *cells] for name, cells in rows.items())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
