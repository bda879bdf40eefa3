"""The tables and the curve of docs/speed.md, written from the result file; the text between them is by hand."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from documents import as_table, put_tables, save_lines

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/speed.md"
CURVE = DOCUMENT.with_name("speed-growth.png")


def write_document(parts: Mapping[str, dict[str, Any]]) -> None:
    """Put each measured part's table under its marker, and draw the time per frame."""
    put_tables(DOCUMENT, tables(parts))
    if "growth" in parts:
        draw_growth(parts["growth"])


def tables(parts: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Of each part that was measured."""
    return {name: table(parts[name]) for name, table in TABLES.items() if name in parts}


def counted_table(part: dict[str, Any]) -> str:
    """Clips of 16 frames at 512x512."""
    ours = part["GFLOP of the clip"]
    ways = {"the formulas as they stand": part["GFLOP by the formulas"], "ARTV": ours}
    ways["ModelScope's UNet"] = ours / part["share of ModelScope's FLOPs"]
    ways |= {f"ARTV, {name}": flops for name, flops in part["GFLOP of the clip in other ways"].items()}
    rows = {name: [f"{flops / 1e3:,.0f}", f"{flops / ours:.2f}"] for name, flops in ways.items()}
    return as_table(["TFLOP", "beside ARTV"], rows, first="way")


def unet_table(part: dict[str, Any]) -> str:
    """Of each way the memory format that suits it better."""
    rows = {}
    for way, formats in part["thread seconds"].items():
        name = min(formats, key=lambda format_: median(formats[format_]))
        seconds = formats[name]
        label = f"{way} {part['host']}" if way == "ComfyUI" else way
        rows[label] = [f"{median(seconds):.2f}", f"{min(seconds):.2f} to {max(seconds):.2f}", name.replace("_", " ")]
    return as_table(["seconds", "all passes", "memory format"], rows, first="UNet")


def cpu_table(part: dict[str, Any]) -> str:
    """What `artv bench` prints, by model and way."""
    rows = {}
    for model, ways in part["rows"].items():
        for name, row in ways.items():
            seconds = [readable(row[what]) for what in ("warm_up", "first_frame", "per_frame")]
            rows[f"{model}: {name}"] = [*seconds, f"{row['peak_mb']:,.0f}"]
    return as_table(["warm-up, s", "first frame, s", "each later frame, s", "memory, MB"], rows, first="way")


def readable(seconds: float) -> str:
    """Nothing where nothing was done."""
    if seconds < 0.001:
        return ""
    return f"{seconds:.2g}" if seconds < 1 else f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.3g}"


def shortcuts_table(part: dict[str, Any]) -> str:
    """One line for each way of sampling."""
    measures = [name for name in next(iter(part["variants"].values())) if not name.startswith("CPU")]
    rows = {way: [f"{figures[name]:.3g}" for name in measures] for way, figures in part["variants"].items()}
    return as_table(measures, rows, first="way")


def gpu_table(part: dict[str, Any]) -> str:
    """Clips of the sections that were not left out."""
    rows = {}
    for section in ("four branches", "four branches, eager", "two branches", "compiled", "tiny"):
        for name, row in part.get(section, {}).items():
            if isinstance(row, dict):
                side = f"{name}x{name}" if name.isdecimal() else name
                seconds = [readable(row[what]) for what in ("warm_up", "first_frame", "per_frame")]
                rows[f"{section}, {side}"] = [*seconds, f"{row['peak_mb'] / 1000:.2f}"]
    if "clip" in (peer := part.get("ModelScope's UNet", {})):
        rows["ModelScope's UNet, 512x512: the whole clip"] = [
            "",
            f"{peer['clip']:.3g}",
            "",
            f"{peer['peak_mb'] / 1000:.2f}",
        ]
    header = ["warm-up, s", "first frame, s", "each later frame, s", "memory, GB"]
    return as_table(header, rows, first=part["device"])


def draw_growth(part: dict[str, Any]) -> None:
    seconds = part["seconds per frame"]
    block = part["frames"] // len(seconds)
    at = [block * (index + 0.5) for index in range(len(seconds))]
    panel = {f"blocks of {block}": [(at, seconds)]}
    save_lines(CURVE, {"processor seconds per frame, medians": panel}, "frame", from_zero=True)


TABLES = {
    "counted": counted_table,
    "unet": unet_table,
    "cpu": cpu_table,
    "options": shortcuts_table,
    "gpu": gpu_table,
}
