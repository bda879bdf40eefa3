"""What a benchmark of several parts writes: the bars of all parts first, then what else was measured, part by part."""

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

Limits = dict[str, dict[str, tuple[str, float]]]
"""Part -> bar -> ("at least" or "at most", limit)."""


def run_parts(
    parser: argparse.ArgumentParser,
    result: Path,
    limits: Limits,
    measure: Callable[[str, argparse.Namespace], dict[str, Any] | Iterator[dict[str, Any]]],
    asked_for: Sequence[str] = (),
) -> argparse.Namespace:
    """The whole of such a benchmark: `measure(part, args)` for each part wanted, the result file, the bars printed.
    A part may yield its figures, more of them each time; the file then has what there is so far. Parts in `asked_for`
    are only run where they are named. Adds `--parts` and `--quick`, with which nothing is written. Returns what
    was parsed.
    """
    usual = [name for name in limits if name not in asked_for]
    parser.add_argument("--quick", action="store_true", help="a little of each part, nothing written")
    parser.add_argument("--parts", nargs="+", choices=list(limits), default=usual)
    args = parser.parse_args()
    command = f"python benchmarks/{result.stem}.py"
    parts = {} if args.quick else kept_parts(result)
    for name in args.parts:
        print(name, flush=True)
        started = time.monotonic()
        for figures in _so_far(measure(name, args)):
            minutes = round((time.monotonic() - started) / 60, 1)
            once = {} if "runs" in figures else {"commit": commit(), "minutes": minutes}  # runs say it one by one
            parts[name] = once | figures
            if not args.quick:
                parts = kept_parts(result) | {name: parts[name]}  # other parts may have been run meanwhile
                result.write_text(json.dumps(as_result(command, limits, parts), indent=1) + "\n")
    for bar in as_result(command, limits, parts)["bars"]:
        value = "" if bar["value"] is None else f"{bar['value']:.4g}"
        print(f"{bar['name']:90} {value:>10}   {bar['limit']:16} {verdict(bar)}")
    return args


def _so_far(figures: dict[str, Any] | Iterator[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    return [figures] if isinstance(figures, dict) else figures


def as_result(command: str, limits: Limits, parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`parts` by name, each with its values under "bars"; a bar without a value was not measured."""
    return {
        "command": command,
        "commit": commit(),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, on the CPU",
        "bars": [
            as_bar(bar, parts.get(part, {}).get("bars", {}).get(bar), *limit)
            for part, bars in limits.items()
            for bar, limit in bars.items()
        ],
        "parts": {part: parts[part] for part in limits if part in parts},
    }


def as_bar(name: str, value: float | None, kind: str, limit: float) -> dict[str, Any]:
    held = value is not None and holds(value, kind, limit)
    return {"name": name, "value": value, "limit": f"{kind} {limit:g}", "holds": held}


def holds(value: float, kind: str, limit: float) -> bool:
    return value >= limit if kind == "at least" else value <= limit


def verdict(bar: dict[str, Any]) -> str:
    return "not run" if bar["value"] is None else "holds" if bar["holds"] else "missed"


def kept_parts(path: Path) -> dict[str, dict[str, Any]]:
    """What an earlier run wrote of each part."""
    return json.loads(path.read_text())["parts"] if path.is_file() else {}


def commit() -> str:
    """The commit that is checked out, short; empty where this is no checkout."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
