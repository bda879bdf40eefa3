"""The arguments of `artv prepare`, and the groups of them on which each step's results depend."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..method.image_size import parse_size

SHOTS = ("drop", "split", "keep")
ENGINES = ("auto", "plain", "ray")
DTYPES = ("float32", "float16", "bfloat16")
BUCKET_MULTIPLE, SMALL_MULTIPLE = 64, 8
"""The sides of buckets are multiples of the first; of the second for clips smaller than 256 pixels. Not in the
paper."""

LEAST_FRAMES = 3
"""The fewest frames of a clip that training can use (`data.min_frames`): a target, and the two frames before it."""


@dataclass(frozen=True)
class PrepareOptions:
    """The settings of one run of `artv prepare`. The defaults are not in the paper, which names a motion range and "the
    best" CLIP scores, but not the numbers."""

    source: str
    output: Path
    checkpoint: str | None = None
    base: Path | None = None
    preset: str | None = None
    size: tuple[int, int] | None = None
    fps: float | None = None
    buckets: bool = True
    min_frames: int = 8
    max_frames: int = 24
    shots: str = "drop"
    cut_threshold: float = 27.0
    motion_range: tuple[float, float] = (0.25, 20.0)
    clip_model: str | None = None
    clip_weights: Path | None = None
    clip_frames: int = 4
    min_clip_score: float | None = None
    top: int | None = None
    shard_clips: int = 256
    engine: str = "auto"
    workers: int = 1
    ray_address: str | None = None
    gpus_per_worker: float = 1.0
    device: str = "auto"
    dtype: str = "float32"
    report_only: bool = False
    redo: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments, in groups."""
    parser.add_argument(
        "source", metavar="IN", help="a folder, a .csv or .jsonl list, or shards: name.tar, name-{0000..0042}.tar"
    )
    parser.add_argument(
        "output", type=Path, metavar="OUT", help="the folder to write; the same command continues there"
    )
    for add in (_add_model, _add_clips, _add_cleaning, _add_work):
        add(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("VAE and text encoder to encode with")
    group.add_argument(
        "--checkpoint",
        metavar="F",
        help="an ARTV checkpoint: a file, or a shipped checkpoint: small, small-fast, tiny or tiny-fast",
    )
    group.add_argument("--preset", metavar="NAME", help="instead of a checkpoint: sd21 or sd15, with --base")
    group.add_argument("--base", type=Path, metavar="F", help="the Stable Diffusion file with the missing parts")
    group.add_argument(
        "--device", default="auto", metavar="D", help="auto (default), cpu, cuda; with --engine plain also cuda:1, mps"
    )
    group.add_argument("--dtype", choices=DTYPES, default="float32", help="precision to compute in; default: float32")


def _add_clips(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("size and length of clips")
    group.add_argument("--size", metavar="N|WxH", help="pixels; default: the checkpoint's")
    group.add_argument("--fps", type=float, metavar="F", help="frames per second; default: the checkpoint's (8)")
    group.add_argument(
        "--one-size",
        action="store_true",
        help="crop all clips to that size; otherwise each to a size of about the same area and its own aspect ratio",
    )
    group.add_argument(
        "--min-frames",
        type=int,
        default=8,
        metavar="N",
        help=f"shorter clips are dropped; at least {LEAST_FRAMES}; default: 8",
    )
    group.add_argument(
        "--max-frames",
        type=int,
        default=24,
        metavar="N",
        help="keep the middle of longer clips; 0: all of it; default: 24",
    )


def _add_cleaning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which clips are kept")
    group.add_argument(
        "--shots",
        choices=SHOTS,
        default="drop",
        help="clips with a cut: drop them (default), split them at their cuts, or keep them as they are",
    )
    group.add_argument(
        "--cut-threshold", type=float, default=27.0, metavar="X", help="PySceneDetect's threshold; default: 27"
    )
    group.add_argument(
        "--motion-range",
        type=float,
        nargs=2,
        default=(0.25, 20.0),
        metavar=("LOW", "HIGH"),
        help="motion scores to keep; default: 0.25 20; try --report-only first",
    )
    group.add_argument(
        "--clip-model",
        metavar="NAME|F.json",
        help="open_clip model for CLIP scores, by name or configuration; without it, no CLIP scores",
    )
    group.add_argument("--clip-weights", type=Path, metavar="F", help="its weights, a safetensors file")
    group.add_argument(
        "--clip-frames", type=int, default=4, metavar="N", help="frames to score in each clip; default: 4"
    )
    group.add_argument(
        "--min-clip-score", type=float, metavar="X", help="lowest CLIP score to keep (cosine of caption and frames)"
    )
    group.add_argument("--top", type=int, metavar="N", help="keep the N best CLIP scores")


def _add_work(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to work")
    group.add_argument("--report-only", action="store_true", help="score and report only, encode nothing")
    group.add_argument(
        "--redo",
        action="store_true",
        help="replace results in OUT that were made with other settings, and remove clips whose videos are gone",
    )
    group.add_argument("--shard-clips", type=int, default=256, metavar="N", help="clips in a shard; default: 256")
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="plain: this process; ray: Ray Data, here or on a cluster; auto (default): ray for several workers",
    )
    group.add_argument("--workers", type=int, default=1, metavar="N", help="workers that Ray runs; default: 1")
    group.add_argument(
        "--ray-address", metavar="A", help="address of a running cluster; default: $RAY_ADDRESS, else this machine"
    )
    group.add_argument(
        "--gpus-per-worker",
        type=float,
        default=1.0,
        metavar="X",
        help="GPUs for each worker, with CUDA; 0.5: two workers share one; default: 1",
    )


def from_arguments(args: argparse.Namespace) -> PrepareOptions:
    """The options from parsed arguments. Raises ValueError if they cannot be used."""
    names = PrepareOptions.__dataclass_fields__
    given = {name: value for name, value in vars(args).items() if name in names}
    given |= {
        "buckets": not args.one_size,
        "size": None if args.size is None else parse_size(args.size, "--size"),
        "motion_range": tuple(args.motion_range),
    }
    options = PrepareOptions(**given)
    check(options)
    return options


def check(options: PrepareOptions) -> None:
    """Raises ValueError on values out of range and on options that do not go together."""
    if Path(options.source).is_dir() and options.output.resolve().is_relative_to(Path(options.source).resolve()):
        raise ValueError(f"{options.output} is inside {options.source}, whose shards are read; write to another folder")
    if options.checkpoint is not None and options.preset is not None:
        raise ValueError("--checkpoint and --preset cannot be used together")
    if options.preset is not None and options.base is None:
        raise ValueError(f"--preset {options.preset} needs --base: the Stable Diffusion file it is filled from")
    if options.checkpoint is None and options.preset is None and not options.report_only:
        raise ValueError("say whose VAE and text encoder to use: --checkpoint FILE, or --preset sd21 --base SD_FILE")
    if (options.clip_model is None) != (options.clip_weights is None):
        raise ValueError("--clip-model and --clip-weights need each other; nothing is downloaded")
    for name, wanted in (("--min-clip-score", options.min_clip_score), ("--top", options.top)):
        if wanted is not None and options.clip_model is None:
            raise ValueError(f"{name} needs CLIP scores: give --clip-model and --clip-weights")
    low, high = options.motion_range
    if not 0 <= low < high:
        raise ValueError(f"--motion-range is {low:g} {high:g}; accepted are two numbers from 0, the lower one first")
    if options.max_frames and options.max_frames < options.min_frames:
        raise ValueError(f"--max-frames {options.max_frames} is less than --min-frames {options.min_frames}")
    for name, value, least, most in (
        ("--min-frames", options.min_frames, LEAST_FRAMES, 1_000_000),
        ("--max-frames", options.max_frames, 0, 1_000_000),
        ("--clip-frames", options.clip_frames, 1, 64),
        ("--top", options.top, 1, None),
        ("--shard-clips", options.shard_clips, 1, 100_000),
        ("--workers", options.workers, 1, 100_000),
        ("--fps", options.fps, 0.1, 1000),
        ("--cut-threshold", options.cut_threshold, 0.1, 255),
        ("--min-clip-score", options.min_clip_score, -1, 1),
        ("--gpus-per-worker", options.gpus_per_worker, 0.01, 64),
    ):
        if value is not None and not least <= value <= (math.inf if most is None else most):
            accepted = f"{least} to {most}" if most is not None else f"numbers from {least}"
            raise ValueError(f"{name} is {value:g}; accepted are {accepted}")


def score_settings(options: PrepareOptions, clip: str | None) -> dict[str, Any]:
    """What a clip's scores depend on. `clip` identifies the CLIP model by its contents."""
    frames = options.clip_frames if clip else 0
    settings: dict[str, Any] = {"cut_threshold": options.cut_threshold, "clip": clip, "clip_frames": frames}
    if clip and options.dtype != "float32":  # the usual one is not noted, so that earlier scores are found
        settings["dtype"] = options.dtype
    return settings


def select_settings(options: PrepareOptions) -> dict[str, Any]:
    """What the choice of clips depends on, apart from their scores and their length in frames."""
    names = ("shots", "motion_range", "min_clip_score", "top", "min_frames", "max_frames")
    return {name: getattr(options, name) for name in names}
