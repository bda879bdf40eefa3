"""The README's table of `long_video.json` and `faults.json`: `python benchmarks/tables.py` writes it anew."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = [ROOT / "benchmarks/results" / name for name in ("long_video.json", "faults.json")]
MARKER = "<!-- long video table -->\n"


def main() -> None:
    before, _, rest = README.read_text(encoding="utf-8").partition(MARKER)
    README.write_text(before + MARKER + table(read_bars()) + "\n\n" + rest.partition("\n\n")[2], encoding="utf-8")


def read_bars() -> list[dict[str, Any]]:
    """All bars of both results, in order."""
    return [bar for path in RESULTS for bar in json.loads(path.read_text())["bars"]]


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
