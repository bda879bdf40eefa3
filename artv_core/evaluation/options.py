"""The arguments of `artv evaluate`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from ..method.image_size import parse_size

INCEPTION_FROM = "https://github.com/toshas/torch-fidelity/releases (weights-inception-2015-12-05-6726825d.pth)"
I3D_FROM = "the project page of StyleGAN-V (i3d_torchscript.pt)"
C3D_FROM = "the URL in StyleGAN-V's src/metrics/video_inception_score.py (c3d_ucf101.pt)"
C3D_FRAMES = 16


@dataclass(frozen=True)
class EvaluateOptions:
    """`videos` is what is judged. With `prompts` it is a folder, and videos that are missing in it are made first, with
    the model in `model` (arguments as for `artv generate`)."""

    videos: str
    true: str | None
    prompts: str | None
    count: int | None
    frames: int
    fps: float
    size: tuple[int, int] | None
    seed: int
    steps: int | None
    sampler: str | None
    inception: Path | None
    i3d: Path | None
    c3d: Path | None
    clip: tuple[str, Path] | None
    report: Path | None
    drift: Path | None
    features: Path | None
    model: argparse.Namespace

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise ValueError(f"--frames is {self.frames}; give 2 or more")
        if not 0.01 <= self.fps <= 1000:
            raise ValueError(f"--fps is {self.fps:g}; accepted are 0.01 to 1000 frames per second")
        if self.i3d and self.true is None:
            raise ValueError("--i3d is for FVD, which compares with true videos; give --true DIR")
        if self.i3d and self.frames < 10:
            raise ValueError(f"--frames is {self.frames}, and an I3D needs 10 or more; 16 are usual")
        if self.c3d and self.frames != C3D_FRAMES:
            raise ValueError(f"--frames is {self.frames}, and a C3D takes {C3D_FRAMES}; give --frames {C3D_FRAMES}")
        if self.drift and self.drift.suffix.lower() == ".png":
            raise ValueError(f"--drift is {self.drift}, which the plot will be called; give a name that ends in .csv")
        if self.count is not None and self.prompts is None:
            raise ValueError("--count says how many videos are made; give --prompts too, or leave it out")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options. The command line adds those of the model."""
    parser.add_argument(
        "videos", metavar="VIDEOS", help="the videos to judge: a folder, a .csv or .jsonl list, or shards"
    )
    parser.add_argument(
        "--true", metavar="DIR", help="real videos to compare with, given in the same way (for FVD and FID)"
    )
    for add in (_add_networks, _add_reading, _add_making):
        add(parser)
    parser.add_argument("--report", type=Path, metavar="F.json", help="also write the scores to a file")
    parser.add_argument(
        "--drift",
        type=Path,
        metavar="F.csv",
        help="write how far each frame has drifted from the first, averaged over all videos, and a plot (F.png)",
    )
    parser.add_argument(
        "--features",
        type=Path,
        metavar="DIR",
        help="folder for computed features; default: artv-features beside VIDEOS",
    )


def _add_networks(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("networks that judge (give files; nothing is downloaded)")
    group.add_argument(
        "--inception", type=Path, metavar="F.pth", help=f"Inception v3, for FID and IS; get it from {INCEPTION_FROM}"
    )
    group.add_argument("--i3d", type=Path, metavar="F.pt", help=f"I3D, for FVD; get it from {I3D_FROM}")
    group.add_argument("--c3d", type=Path, metavar="F.pt", help=f"C3D, for the IS on UCF-101; get it from {C3D_FROM}")
    group.add_argument(
        "--clip-model",
        metavar="M",
        help="CLIP, for CLIPSIM: the model's name in open_clip (such as ViT-B-32), or its JSON file",
    )
    group.add_argument(
        "--clip-weights", type=Path, metavar="F", help="the weights of the CLIP model, a safetensors file"
    )


def _add_reading(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which frames are judged")
    group.add_argument("--frames", type=int, default=16, metavar="N", help="frames of each video; default: %(default)s")
    group.add_argument("--fps", type=float, default=8.0, metavar="R", help="frames per second; default: %(default)g")
    group.add_argument(
        "--size", metavar="WxH", help="scale and crop all videos to this size in pixels; default: the first video's"
    )


def _add_making(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("making the videos first")
    group.add_argument(
        "--prompts",
        metavar="P",
        help="make the videos that VIDEOS lacks, from ucf101 (a caption for each class), msrvtt:FILE.json (a caption "
        "for each test video), or a text file with one prompt on each line",
    )
    group.add_argument("--count", type=int, metavar="N", help="number of videos to make; default: one for each prompt")
    group.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the first video; default: %(default)s")
    group.add_argument(
        "--steps", type=int, metavar="S", help="denoising steps for each frame; default: the checkpoint's"
    )
    group.add_argument("--sampler", metavar="NAME", help="sampling method; default: the checkpoint's")


def from_arguments(args: argparse.Namespace) -> EvaluateOptions:
    """The options from parsed arguments. Raises ValueError if they do not fit together."""
    if (args.clip_model is None) != (args.clip_weights is None):
        raise ValueError("--clip-model and --clip-weights need each other; nothing is downloaded")
    return EvaluateOptions(
        videos=args.videos,
        true=args.true,
        prompts=args.prompts,
        count=args.count,
        frames=args.frames,
        fps=args.fps,
        size=None if args.size is None else parse_size(args.size, "--size"),
        seed=args.seed,
        steps=args.steps,
        sampler=args.sampler,
        inception=args.inception,
        i3d=args.i3d,
        c3d=args.c3d,
        clip=None if args.clip_model is None else (args.clip_model, args.clip_weights),
        report=args.report,
        drift=args.drift,
        features=args.features,
        model=args,
    )
