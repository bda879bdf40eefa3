"""The command `artv bench`: its arguments, its measurements, its table."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bench.variants import VARIANTS
from ..files.partial_file import check_writable, replacing
from ..method.image_size import parse_size
from .options import add_model_options

if TYPE_CHECKING:
    import torch

    from ..bench.measure import Row
    from ..config import ARTVConfig
    from ..method.options import GenerateOptions

USUAL = ("plain", "reuse 2")


def add_command(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "bench",
        help="measure how fast this machine makes frames",
        description="Measures time to the first frame, frames per second and peak memory on this "
        "machine, by size and way of sampling.",
        allow_abbrev=False,
    )
    add_arguments(parser)
    add_model_options(parser)
    parser.set_defaults(run=run_bench)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options. The command line adds those of the model."""
    parser.add_argument(
        "--sizes",
        nargs="+",
        default=[],
        metavar="WxH",
        help="frame sizes in pixels; default: the checkpoint's training size",
    )
    parser.add_argument(
        "--frames", type=int, default=16, metavar="N", help="frames of each video; default: %(default)s"
    )
    parser.add_argument("--steps", type=int, metavar="S", help="denoising steps; default: the checkpoint's")
    parser.add_argument("--sampler", metavar="NAME", help="default: the checkpoint's")
    for name, what in (("references", "the previous frames"), ("anchor", "the anchor"), ("text", "the text")):
        parser.add_argument(f"--cfg-{name}", type=float, metavar="X", help=f"guidance scale for {what}")
    parser.add_argument(
        "--variants",
        nargs="+",
        default=list(USUAL),
        choices=(*VARIANTS, "all"),
        metavar="NAME",
        help=f"ways of sampling: {', '.join(repr(name) for name in VARIANTS)}, or all; compiling takes minutes; "
        f"default: {' '.join(repr(name) for name in USUAL)}",
    )
    parser.add_argument(
        "--preset",
        choices=("tiny", "sd21", "sd15"),
        help="use untrained networks of this size; no file is needed",
    )
    parser.add_argument(
        "--peers", action="store_true", help="also measure one-shot text-to-video (ModelScope's UNet in diffusers)"
    )
    parser.add_argument(
        "--json", type=Path, metavar="F.json", help="also write the results to a file, after each measurement"
    )


def run_bench(args: argparse.Namespace) -> int:
    """Measure, and print each row as it is finished."""
    from ..bench.measure import Case, measure_case, measured
    from ..bench.peers import PeerCase, has_modelscope, measure_modelscope
    from ..checkpoint import default_name
    from ..config import preset
    from ..run.pipeline import pick_device

    for name in ("checkpoint", "base"):
        if args.preset and getattr(args, name):
            raise ValueError(f"--preset and --{name} cannot be used together: a preset is measured without any file")
    device = pick_device(args.device)
    config = preset(args.preset) if args.preset else _config_of(args.checkpoint)
    sizes = [parse_size(text, "--sizes") for text in args.sizes] or [config.size]
    if args.frames < 2:
        raise ValueError(f"--frames is {args.frames}; give 2 or more, so that there is a first frame and later ones")
    if args.peers and not has_modelscope():
        raise ValueError("--peers needs the package diffusers: pip install diffusers, or leave it out")
    if args.json:
        check_writable(args.json)
    cases = [options for height, width in sizes if (options := _options(args, width, height)).resolved(config)]
    model = f"preset:{args.preset}" if args.preset else str(args.checkpoint or default_name())
    names = list(VARIANTS) if "all" in args.variants else args.variants
    machine = _machine(device, args.dtype)
    rows: list[Row] = []
    print(machine)

    def take(row: Row) -> None:
        rows.append(_shown(row, first=not rows))
        if args.json:
            _write(args.json, machine, rows)

    for options in cases:
        for name in names:
            take(measured(measure_case, Case(model, name, options, str(device), args.dtype, args.base)))
        if args.peers:
            steps = 50 if device.type == "cuda" else 1
            peer = PeerCase(options.width or 0, options.height or 0, str(device), args.dtype, steps)
            take(measured(measure_modelscope, peer))
    return 0


def _write(file: Path, machine: str, rows: Sequence[Row]) -> None:
    """Write the results so far. A number that is not known is null: JSON has no NaN."""
    known = [{name: None if _is_nan(value) else value for name, value in asdict(row).items()} for row in rows]
    with replacing(file) as path:
        path.write_text(json.dumps({"machine": machine, "rows": known}, indent=1) + "\n", encoding="utf-8")


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _options(args: argparse.Namespace, width: int, height: int) -> GenerateOptions:
    from ..method.options import GenerateOptions

    return GenerateOptions(
        num_frames=args.frames,
        width=width,
        height=height,
        steps=args.steps,
        sampler=args.sampler,
        guidance_references=args.cfg_references,
        guidance_anchor=args.cfg_anchor,
        guidance_text=args.cfg_text,
    )


def _config_of(checkpoint: str | None) -> ARTVConfig:
    from ..checkpoint import describe_checkpoint, resolve_checkpoint

    return describe_checkpoint(resolve_checkpoint(checkpoint)).config


def _machine(device: torch.device, dtype: str) -> str:
    import torch

    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {dtype}, torch {torch.__version__}"
    return f"{device.type}, {torch.get_num_threads()} threads, {dtype}, torch {torch.__version__}"


def _shown(row: Row, first: bool) -> Row:
    if first:
        print(f"{'size':>10}  {'first frame':>11}  {'later':>8}  {'frames/s':>8}  {'peak MB':>8}  {'warm-up':>8}  way")
    print(
        f"{row.size:>10}  {row.first_frame:>9.3f} s  {row.per_frame:>6.3f} s  {1 / row.per_frame:>8.2f}  "
        f"{row.peak_mb:>8.0f}  {row.warm_up:>6.1f} s  {row.name}{f' ({row.note})' * bool(row.note)}",
        flush=True,
    )
    return row
