"""Documents that show what the benchmarks measured: tables under markers, between text by hand, and curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLORS = ("#1f5fa8", "#c0392b", "#2e8b57", "#8e5aa8", "#c98a1b", "#4d4d4d", "#17a2b8")
DASHES = ("-", "--", ":")
"""Of the lines for which no color is left."""


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


Line = tuple[Sequence[float], Sequence[float]]


def save_lines(
    path: Path,
    panels: Mapping[str, Mapping[str, Sequence[Line]]],
    x: str,
    log: bool = False,
    reverse: bool = False,
    from_zero: bool = False,
) -> None:
    """Panels side by side: title -> label -> lines as (x, y) each; lines of one label look alike. `log` and
    `reverse` are of x, `from_zero` of y."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(panels), 4), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any
    last = list(panels)[-1]
    for axes, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        looks = ((color, dashes) for dashes in DASHES for color in COLORS)
        for label, each in lines.items():
            color, dashes = next(looks)
            for index, (at, values) in enumerate(each):
                shown = None if index else label
                axes.plot(at, values, dashes, color=color, linewidth=1.3, alpha=0.85, label=shown)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel(x)
        if log:
            axes.set_xscale("log")
        if reverse:
            axes.invert_xaxis()
        if from_zero:
            axes.set_ylim(bottom=0)
        axes.grid(color="#e5e5e5", linewidth=0.6)
        if len(lines) <= len(COLORS):
            axes.legend(fontsize=8, frameon=False)
        elif title == last:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
