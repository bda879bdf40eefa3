"""The options of `artv generate`, in groups as its help shows them."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all options except those of the model."""
    parser.add_argument(
        "prompt",
        nargs="?",
        metavar="PROMPT",
        help="what the video shows; (words:1.3) gives words more weight, (words:0.7) less",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.mp4", help="the video file to write")
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
        'each with the frame it starts at; `"24": "prompt"` and `[0s-3s: prompt]` also work',
    )
    group.add_argument("--negative", metavar="TEXT", help="what the video should not show")
    group.add_argument(
        "--image",
        type=Path,
        metavar="PNG",
        help="an image to start from, as frame 0; it is scaled to cover the video's size and its centre is cut out",
    )
    group.add_argument(
        "--continue-from",
        type=Path,
        metavar="F",
        help="continue from frames that --save-latents wrote, or from a journal",
    )
    group.add_argument(
        "--anchor",
        choices=("segment", "first", "rolling", "none"),
        help="the frame that keeps the scene consistent: the last one of the previous prompt (segment, the default), "
        "frame 0 (first), or the one 10 frames back (rolling)",
    )
    group.add_argument("--anchor-image", type=Path, metavar="PNG", help="an image as the anchor, instead of --anchor")


def _add_sampling_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to make it")
    group.add_argument(
        "--frames", type=int, metavar="N", help="length of the video in frames, including given ones; 0: until stopped"
    )
    group.add_argument("--seed", type=int, help="random seed; default: 0, or the seed of the frames to continue from")
    group.add_argument(
        "--batch", type=int, metavar="N", help="make N videos, with seeds S, S + 1 and so on (OUT-0.mp4, OUT-1.mp4)"
    )
    group.add_argument("--width", type=int, metavar="W", help="width in pixels")
    group.add_argument("--height", type=int, metavar="H", help="height in pixels")
    group.add_argument("--steps", type=int, metavar="S", help="denoising steps for each frame")
    group.add_argument(
        "--sampler",
        metavar="NAME",
        help="sampling method: euler, euler_ancestral, dpmpp_2m, dpmpp_2s_ancestral or ddim",
    )
    _add_guidance_options(group)
    group.add_argument(
        "--noise-level",
        type=int,
        metavar="N",
        help="noise added to the previous frames and the anchor; more: fewer errors build up, but details change",
    )
    group.add_argument(
        "--no-mask", action="store_true", help="do not copy still parts from the previous frame (no mask network)"
    )
    group.add_argument(
        "--redo",
        action="append",
        default=[],
        metavar="K:SEED",
        help="use another seed from frame K on; earlier frames come from the journal, if there is one",
    )
    group.add_argument(
        "--adain",
        type=float,
        default=0.0,
        metavar="X",
        help="reduce colour drift: pull each frame's colours toward the anchor's, 0 (off, the default) to 1",
    )


def _add_guidance_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--cfg-references",
        type=float,
        metavar="X",
        help="how strongly frames follow the previous frames; 1: as trained",
    )
    group.add_argument(
        "--cfg-anchor", type=float, metavar="X", help="how strongly frames follow the anchor frame; 1: as trained"
    )
    group.add_argument("--cfg-text", type=float, metavar="X", help="how strongly frames follow the text; 1: as trained")
    group.add_argument(
        "--cfg-first",
        type=float,
        metavar="X",
        help="the same as --cfg-text, for a first frame that is made from text alone",
    )


def _add_speed_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "speed and memory", "All are off by default. All except --compile and --no-graph cost some quality."
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="compile the networks: takes minutes the first time, then frames are faster",
    )
    group.add_argument(
        "--no-graph",
        dest="graph",
        action="store_false",
        help="on a GPU, do not use CUDA graphs: the same frames, but slower",
    )
    group.add_argument("--fp8", action="store_true", help="store weights as 8-bit floats: less memory, but slower")
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
        help="run the whole networks only every N-th time, and only their outermost blocks in between",
    )
    group.add_argument(
        "--reuse-blocks",
        type=int,
        default=1,
        metavar="B",
        help="how many outermost blocks run in between; default: %(default)s",
    )
    group.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        default=(0.0, 1.0),
        metavar=("LOW", "HIGH"),
        help="use guidance (cfg) only between these noise levels, from 0 (clean) to 1 (pure noise)",
    )


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to write")
    group.add_argument(
        "--fps", type=float, metavar="F", help="frames per second of the video; default: that of the training clips"
    )
    group.add_argument(
        "--upscale", type=int, default=1, metavar="N", help="enlarge the video: write each pixel as NxN pixels"
    )
    group.add_argument(
        "--stream",
        action="store_true",
        help="write the video while it is made, so you can watch it grow (OUT.part.mp4)",
    )
    group.add_argument(
        "--mask-video",
        type=Path,
        metavar="F.mp4",
        help="also write a video of the copy masks (white: copied from the previous frame)",
    )
    group.add_argument(
        "--drift",
        type=Path,
        metavar="F.csv",
        help="write how far each frame has drifted from the first: a row for each frame, and at the end a plot (F.png)",
    )
    group.add_argument(
        "--save-latents", type=Path, metavar="F.safetensors", help="save the frames, to continue from them later"
    )


def _add_journal_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "journal",
        "Every finished frame is saved, so that you can continue an interrupted run with the same command. "
        "By default this is done for videos of more than 32 frames, in the folder artv_journals beside the output.",
    )
    group.add_argument(
        "--journal", type=Path, metavar="DIR", help="keep the journal in this folder, also for short videos"
    )
    group.add_argument("--no-journal", action="store_true", help="keep none")
    group.add_argument(
        "--start-over", action="store_true", help="make all frames again, even if a journal contains some"
    )
