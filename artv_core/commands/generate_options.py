"""The options of `artv generate`, in groups as its help shows them."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All of them but the model's."""
    parser.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="what is to be seen; (words:1.3) count more or less"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.mp4", help="the video to write")
    for add in (
        _add_input_options,
        _add_sampling_options,
        _add_speed_options,
        _add_output_options,
        _add_journal_options,
    ):
        add(parser)


def _add_input_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to show")
    group.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="several prompts, one a line, each for one segment of the checkpoint's length; or lines `24: prompt`, "
        'each with its first frame; `"24": "prompt"` and `[0s-3s: prompt]` will do too',
    )
    group.add_argument("--negative", metavar="TEXT", help="what is not to be seen")
    group.add_argument(
        "--image",
        type=Path,
        metavar="PNG",
        help="frame 0; scaled to cover the video's size, then cropped at its centre",
    )
    group.add_argument(
        "--continue-from", type=Path, metavar="F", help="go on from the frames --save-latents wrote, or a journal holds"
    )
    group.add_argument(
        "--anchor",
        choices=("segment", "first", "rolling", "none"),
        help="the frame that holds the scene together: the last one of the prompt before (segment, the default), "
        "frame 0 (first), the one 10 frames back (rolling)",
    )
    group.add_argument("--anchor-image", type=Path, metavar="PNG", help="an image as the anchor, instead of --anchor")


def _add_sampling_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to make it")
    group.add_argument(
        "--frames", type=int, metavar="N", help="length of the video, given frames included; 0: until stopped"
    )
    group.add_argument("--seed", type=int, help="default: 0, or that of the frames to go on from")
    group.add_argument("--batch", type=int, metavar="N", help="N videos, with seeds counting up (OUT-0.mp4, OUT-1.mp4)")
    group.add_argument("--width", type=int, metavar="W", help="pixels")
    group.add_argument("--height", type=int, metavar="H", help="pixels")
    group.add_argument("--steps", type=int, metavar="S", help="denoising steps for each frame")
    group.add_argument("--sampler", metavar="NAME", help="euler, euler_ancestral, dpmpp_2m, dpmpp_2s_ancestral or ddim")
    group.add_argument("--cfg-references", type=float, metavar="X", help="guidance by the last frames")
    group.add_argument("--cfg-anchor", type=float, metavar="X", help="guidance by the anchor")
    group.add_argument("--cfg-text", type=float, metavar="X", help="guidance by the text")
    group.add_argument("--cfg-first", type=float, metavar="X", help="guidance by the text where no frame came before")
    group.add_argument("--noise-level", type=int, metavar="N", help="noise augmentation of references and anchor")
    group.add_argument("--no-mask", action="store_true", help="do without the mask network")
    group.add_argument(
        "--redo",
        action="append",
        default=[],
        metavar="K:SEED",
        help="from frame K on, go by another seed; the frames before it come from the journal, if one holds them",
    )
    group.add_argument(
        "--adain",
        type=float,
        default=0.0,
        metavar="X",
        help="against drift: pull each frame's statistics toward the anchor's, 0 (off, the default) to 1",
    )


def _add_speed_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "speed and memory", "All off by default; all but --compile and --no-graph cost some quality."
    )
    group.add_argument(
        "--compile", action="store_true", help="compile the networks: minutes the first time, then faster frames"
    )
    group.add_argument(
        "--no-graph",
        dest="graph",
        action="store_false",
        help="on a GPU, launch every kernel by itself instead of replaying CUDA graphs: same frames, but slower",
    )
    group.add_argument("--fp8", action="store_true", help="keep weights as 8-bit floats: less memory, but slower")
    group.add_argument(
        "--taesd",
        type=Path,
        metavar="F",
        help="decode frames with TAESD (its public taesd_decoder.safetensors) instead of the checkpoint's VAE: faster",
    )
    group.add_argument(
        "--reuse-every",
        type=int,
        default=1,
        metavar="N",
        help="run whole networks in one of N evaluations, in the others their outermost blocks only",
    )
    group.add_argument(
        "--reuse-blocks", type=int, default=1, metavar="B", help="how many blocks that is; default: %(default)s"
    )
    group.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        default=(0.0, 1.0),
        metavar=("LOW", "HIGH"),
        help="guide only between these shares of the noise, 0 clean to 1 noise alone",
    )


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to write")
    group.add_argument("--fps", type=float, metavar="F", help="frames per second; default: the training clips'")
    group.add_argument(
        "--upscale", type=int, default=1, metavar="N", help="write each pixel as NxN pixels, to watch small videos"
    )
    group.add_argument(
        "--stream", action="store_true", help="write the video so that it can be watched while it grows (OUT.part.mp4)"
    )
    group.add_argument("--mask-video", type=Path, metavar="F.mp4", help="a video of the copy masks (white: copied)")
    group.add_argument(
        "--drift",
        type=Path,
        metavar="F.csv",
        help="how far each frame is from the first: a row for each as it is made, at the end a plot (F.png)",
    )
    group.add_argument("--save-latents", type=Path, metavar="F.safetensors", help="frames to go on from later")


def _add_journal_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "journal",
        "Every finished frame is kept in a file, so that a run that was cut off goes on where it was when it is asked "
        "for again. By default so for videos of more than 32 frames, in the folder artv_journals beside the output.",
    )
    group.add_argument("--journal", type=Path, metavar="DIR", help="keep it in this folder, however short the video")
    group.add_argument("--no-journal", action="store_true", help="keep none")
    group.add_argument("--start-over", action="store_true", help="make all frames, whatever a journal holds")
