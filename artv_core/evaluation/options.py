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
USUAL_FPS = 8.0


@dataclass(frozen=True)
class EvaluateOptions:
    """`videos` is what is judged. With `prompts` it is a folder, and videos that are missing in it are made first, with
    the model in `model` (arguments as for `artv generate`). `fps` None is the model's rate for such videos, and
    `USUAL_FPS` for others."""

    videos: str
    true: str | None
    prompts: str | None
    first_frames: str | None
    count: int | None
    frames: int
    fps: float | None
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

    @property
    def files_read(self) -> list[Path]:
        """The named files that are read. A name of prompts or of a checkpoint that is no file does no harm."""
        model = [getattr(self.model, name, None) for name in ("checkpoint", "base", "taesd")]
        clip = self.clip and self.clip[1]
        given = [
            self.videos,
            self.true,
            self.prompts,
            self.first_frames,
            self.inception,
            self.i3d,
            self.c3d,
            clip,
            *model,
        ]
        return [Path(path) for path in given if path]

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise ValueError(f"--frames is {self.frames}; give 2 or more")
        if self.fps is not None and not 0.01 <= self.fps <= 1000:
            raise ValueError(f"--fps is {self.fps:g}; accepted are 0.01 to 1000 frames per second")
        if self.i3d and self.true is None:
            raise ValueError("--i3d is for FVD, which compares with true videos; give --true DIR")
        if self.i3d and self.frames < 10:
            raise ValueError(f"--frames is {self.frames}, and an I3D needs 10 or more; 16 are usual")
        if self.c3d and self.frames != C3D_FRAMES:
            raise ValueError(f"--frames is {self.frames}, and a C3D takes {C3D_FRAMES}; give --frames {C3D_FRAMES}")
        if self.drift and self.drift.suffix.lower() == ".png":
            raise ValueError(
                f"--drift is {self.drift}, but that is the name of the plot; give a name that ends in .csv"
            )
        if self.first_frames is not None and self.prompts is None:
            raise ValueError("--first-frames is for videos that this command makes; give --prompts too")
        if self.count is not None and self.prompts is None:
            raise ValueError("--count is for videos that this command makes; give --prompts too, or leave it out")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options. The command line adds those of the model."""
    parser.add_argument(
        "videos", metavar="VIDEOS", help="the videos to judge: a folder, a .csv or .jsonl list, or shards"
    )
    parser.add_argument("--true", metavar="DIR", help="true videos to compare with, given in the same way (FVD, FID)")
    weights = parser.add_argument_group("weights (nothing is downloaded)")
    weights.add_argument("--inception", type=Path, metavar="F.pth", help=f"for FID and IS; from {INCEPTION_FROM}")
    weights.add_argument("--i3d", type=Path, metavar="F.pt", help=f"for FVD; from {I3D_FROM}")
    weights.add_argument("--c3d", type=Path, metavar="F.pt", help=f"for the IS of UCF-101; from {C3D_FROM}")
    weights.add_argument(
        "--clip-model", metavar="M", help="for CLIPSIM: an open_clip model by name (ViT-B-32), or its JSON"
    )
    weights.add_argument("--clip-weights", type=Path, metavar="F", help="its weights, a safetensors file")
    reading = parser.add_argument_group("what to look at")
    reading.add_argument(
        "--frames", type=int, default=16, metavar="N", help="frames of each video; default: %(default)s"
    )
    reading.add_argument(
        "--fps",
        type=float,
        metavar="R",
        help=f"frames per second; default: the checkpoint's for made videos, else {USUAL_FPS:g}",
    )
    reading.add_argument(
        "--size",
        metavar="WxH",
        help="size in pixels that all videos are scaled and cropped to, and at which --prompts makes them; default: "
        "the checkpoint's for made videos, else the first video's",
    )
    _add_making(parser)
    parser.add_argument("--report", type=Path, metavar="F.json", help="also write the results to a file")
    parser.add_argument(
        "--drift",
        type=Path,
        metavar="F.csv",
        help="measure how far frames are from the first, frame by frame over all videos; with a "
        "plot (F.png) that also shows the true videos",
    )
    parser.add_argument(
        "--features",
        type=Path,
        metavar="DIR",
        help="folder that keeps the features; default: artv-features beside VIDEOS",
    )


def _add_making(parser: argparse.ArgumentParser) -> None:
    making = parser.add_argument_group("making the videos first")
    making.add_argument(
        "--prompts",
        metavar="P",
        help="first make the videos that are missing in VIDEOS: ucf101 (a caption for each "
        "class), msrvtt:FILE.json (a caption for each test video), or a text file with one "
        "prompt per line",
    )
    making.add_argument(
        "--first-frames",
        metavar="DIR",
        help="begin each video with a given image. DIR has a file for each prompt, with the name of the prompt's "
        "video: an image, or a video, whose first frame is taken. For ucf101 it can have a folder of them for each "
        "class instead",
    )
    making.add_argument("--count", type=int, metavar="N", help="how many videos to make; default: one for each prompt")
    making.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="seed of the first video, and of the choice of MSR-VTT captions; default: %(default)s",
    )
    making.add_argument("--steps", type=int, metavar="S", help="denoising steps; default: the checkpoint's")
    making.add_argument("--sampler", metavar="NAME", help="default: the checkpoint's")


def from_arguments(args: argparse.Namespace) -> EvaluateOptions:
    """The options from parsed arguments. Raises ValueError if they do not fit together."""
    if (args.clip_model is None) != (args.clip_weights is None):
        raise ValueError("--clip-model and --clip-weights need each other; nothing is downloaded")
    return EvaluateOptions(
        videos=args.videos,
        true=args.true,
        prompts=args.prompts,
        first_frames=args.first_frames,
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
