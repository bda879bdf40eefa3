"""What a benchmark of several parts writes: the bars of all parts first, then what else was measured, part by part.

Bars and parts of the file that the benchmark no longer measures stay as they are: they are history.
"""

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from artv_core.commands.comfyui_server import Host, Result

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
"""So that benchmarks, all of which import this, find the package and what tests share."""

Limits = dict[str, dict[str, tuple[str, float]]]
"""Part -> bar -> ("at least" or "at most", limit)."""
Figures = dict[str, Any]
Section = tuple[str, float, Callable[[Figures], Figures]]
"""Name, seconds that it may take, and what measures it, given the figures so far."""


def parser_of(described: str | None) -> argparse.ArgumentParser:
    """For a benchmark that says in its docstring what it does."""
    return argparse.ArgumentParser(description=described, formatter_class=argparse.RawDescriptionHelpFormatter)


def needed_hosts() -> "list[Host]":
    """Every ComfyUI that is found; ends the benchmark where there is none."""
    from artv_core.commands.comfyui_server import find_hosts

    hosts = find_hosts()
    if not hosts:
        raise SystemExit("no ComfyUI found: set COMFYUI_PATH to its folder")
    return hosts


def card_or_quick(quick: bool) -> str:
    """The name of the GPU, or "CPU" for a quick look; ends the benchmark where there is none."""
    import torch

    if not torch.cuda.is_available() and not quick:
        raise SystemExit("there is no GPU here; --quick tries the code on the CPU")
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def clear() -> None:
    """Memory that nothing uses goes back to the device."""
    import torch

    gc.collect()  # graphs hold what they compute in, and lie in circles of references
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def succeeded(result: "Result") -> "Result":
    """The same; ends the benchmark where the prompt failed."""
    if result.status != "success":
        raise SystemExit(f"a prompt that should succeed did not: {result.status}, {result.message}")
    return result


def run_parts(
    parser: argparse.ArgumentParser,
    result: Path,
    limits: Limits,
    measure: Callable[[str, argparse.Namespace], Figures | Iterator[Figures]],
    asked_for: Sequence[str] = (),
) -> argparse.Namespace:
    """The whole of such a benchmark: `measure(part, args)` for each part wanted, the result file, the bars printed.
    A part may yield its figures, more of them each time; the file then has what there is so far. Parts in `asked_for`
    are only run where they are named. Adds `--parts` and `--quick`, and says what they do. Returns what was parsed.
    """
    usual = [name for name in limits if name not in asked_for]
    parser.epilog = f"Writes {result.name} in benchmarks/results; what it holds of other parts is kept."
    parser.add_argument("--quick", action="store_true", help="a little of each part on any machine, nothing written")
    parser.add_argument(
        "--parts", nargs="+", choices=list(limits), default=usual, help=f"default: {', '.join(usual) or 'none'}"
    )
    args = parser.parse_args()
    parts = {} if args.quick else kept_parts(result)
    for name in args.parts:
        print(name, flush=True)
        started, found = time.monotonic(), measure(name, args)
        for figures in [found] if isinstance(found, dict) else found:
            made = {"commit": commit(), "minutes": round((time.monotonic() - started) / 60, 1)}
            parts[name] = ({} if "runs" in figures else made) | figures  # runs say it one by one
            if not args.quick:
                parts = kept_parts(result) | {name: parts[name]}  # other parts may have been run meanwhile
                result.write_text(json.dumps(as_result(result, limits, parts, read(result)), indent=1) + "\n")
    for bar in as_result(result, limits, parts, {})["bars"]:
        value = "" if bar["value"] is None else f"{bar['value']:.4g}"
        print(f"{bar['name']:90} {value:>10}   {bar['limit']:16} {verdict(bar)}")
    return args


def run_sections(sections: Sequence[Section], figures: Figures, deadline: float) -> Iterator[Figures]:
    """Into `figures` goes what each section finds, its bars among those of all; yields them, with one section more each
    time. A section that would not end before the `deadline` (of `time.monotonic`) is left out."""
    left_out, bars = figures.setdefault("left out", []), figures.setdefault("bars", {})
    for name, needed, section in sections:
        if time.monotonic() + needed > deadline:
            left_out.append(name)
            continue
        started = time.monotonic()
        try:
            found = section(figures)
        except (RuntimeError, ValueError, AssertionError) as error:  # the other sections still count
            found = {"failed": f"{type(error).__name__}: {str(error)[:500]}"}
        bars |= found.pop("bars", {})
        figures[name] = found | {"took": round(time.monotonic() - started, 1)}
        print(f"  {name}: {figures[name]}", flush=True)
        yield figures
    yield figures


def as_result(result: Path, limits: Limits, parts: dict[str, Figures], before: Figures) -> Figures:
    """`parts` by name, each with its values under "bars"; a bar without a value was not measured. Bars of the result
    `before` are kept where `limits` does not name them, and their values where a part does not say its own."""
    earlier = {bar["name"]: bar["value"] for bar in before.get("bars", [])}
    bars = [
        as_bar(bar, parts.get(part, {}).get("bars", earlier).get(bar), *limit)
        for part, named in limits.items()
        for bar, limit in named.items()
    ]
    return about(result) | {"bars": with_earlier(bars, before), "parts": parts}


def with_earlier(bars: list[Figures], before: Figures) -> list[Figures]:
    """These, then other bars of the result `before`."""
    names = {bar["name"] for bar in bars}
    return bars + [bar for bar in before.get("bars", []) if bar["name"] not in names]


def about(result: Path) -> Figures:
    """What is measured, and where."""
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, {os.cpu_count()} cores"
    threads = f" of which {limit} are used" if (limit := os.environ.get("OMP_NUM_THREADS")) else ""
    return {"command": f"python benchmarks/{result.stem}.py", "commit": commit(), "machine": machine + threads}


def as_bar(name: str, value: float | None, kind: str, limit: float) -> Figures:
    held = value is not None and (value >= limit if kind == "at least" else value <= limit)
    return {"name": name, "value": value, "limit": f"{kind} {limit:g}", "holds": held}


def verdict(bar: Figures) -> str:
    return "not run" if bar["value"] is None else "holds" if bar["holds"] else "missed"


def read(path: Path) -> Figures:
    return json.loads(path.read_text()) if path.is_file() else {}


def kept_parts(path: Path) -> dict[str, Figures]:
    """What an earlier run wrote of each part."""
    return read(path).get("parts", {})


def commit() -> str:
    """The commit that is checked out, short; empty where this is no checkout."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
