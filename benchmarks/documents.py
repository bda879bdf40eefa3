"""Documents that show what the benchmarks measured: tables under markers, between text by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path


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
