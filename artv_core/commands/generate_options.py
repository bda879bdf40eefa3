"""The options of `artv generate`, in groups as its help shows them."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all options except those of the model."""
    parser.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="what to show; (words:1.3) gives words more or less weight"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.mp4", help="the video file to write")
    for add in (
        _add_input_options,
        _add_sampling_options,
        add_speed_options,
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
        help="several prompts, one per line, each for one segment of the checkpoint "
        '(16 frames with small and tiny); or lines `24: prompt` with the first frame of each; `"24": "prompt"` and '
        "`[0s-3s: prompt]` also work",
    )
    group.add_argument("--negative", metavar="TEXT", help="what not to show")
    group.add_argument(
        "--image",
        type=Path,
        metavar="PNG",
        help="an image to start from, as frame 0; it is scaled to cover the video's size and cropped around its centre",
    )
    group.add_argument(
        "--continue-from",
        type=Path,
        metavar="F",
        help="continue from frames written by --save-latents, or from a journal",
    )
    group.add_argument(
        "--anchor",
        choices=("segment", "first", "rolling", "none"),
        help="the frame that keeps the scene consistent: the last frame of the previous prompt "
        "(segment, the default), frame 0 (first), or the frame 10 frames back (rolling)",
    )
    group.add_argument(
        "--anchor-image",
        type=Path,
        action="append",
        default=[],
        metavar="PNG",
        help="an image as the anchor, instead of --anchor; give it once for all prompts, or once for each prompt",
    )
    group.add_argument(
        "--keyframe",
        action="append",
        default=[],
        metavar="K=PNG",
        help="an image as frame K; the video goes on from it as from a first frame. Give it again for more keyframes",
    )


def _add_sampling_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to make it")
    group.add_argument(
        "--frames",
        type=int,
        metavar="N",
        help="length of the video in frames, including given ones; 0: until stopped; default: one segment (16 frames "
        "with small and tiny) from the last prompt, keyframe or given frame on",
    )
    group.add_argument("--seed", type=int, help="default: 0, or the seed of the frames to continue from")
    group.add_argument("--batch", type=int, metavar="N", help="N videos, with seeds counting up (OUT-0.mp4, OUT-1.mp4)")
    group.add_argument(
        "--redo",
        action="append",
        default=[],
        metavar="K:SEED",
        help="use another seed from frame K on; earlier frames come from the journal, if it has them",
    )
    add_look_options(group)


def add_look_options(group: argparse._ArgumentGroup) -> None:
    """Add the options that decide how every frame is sampled."""
    group.add_argument("--width", type=int, metavar="W", help="width in pixels")
    group.add_argument("--height", type=int, metavar="H", help="height in pixels")
    group.add_argument(
        "--steps",
        type=int,
        metavar="S",
        help="denoising steps for each frame; for the first one too, unless --first-frame-steps says otherwise",
    )
    group.add_argument(
        "--first-frame-steps",
        type=int,
        metavar="S",
        help="denoising steps for the first frame, which has no frame to start from; 0: as many as the others. "
        "Default: 0 with --steps, else what the checkpoint recommends",
    )
    group.add_argument("--sampler", metavar="NAME", help="euler, euler_ancestral, dpmpp_2m, dpmpp_2s_ancestral or ddim")
    _add_guidance_options(group)
    group.add_argument(
        "--noise-level",
        type=int,
        metavar="N",
        help="how much noise to add to the previous frames and the anchor: 0 (none) to 999; 20 to 100 is usual",
    )
    group.add_argument("--no-mask", action="store_true", help="do not use the mask network")
    group.add_argument(
        "--adain",
        type=float,
        default=0.0,
        metavar="X",
        help="reduce drift: pull each frame's colours and contrast toward the anchor's, 0 (off, the default) to 1",
    )
    group.add_argument(
        "--return-to-anchor",
        type=float,
        metavar="X",
        help="reduce drift: still parts of a frame get the anchor's value if they differ from it by less than X, 0 "
        "(off) to 1 (default: the checkpoint's recommendation)",
    )


def _add_guidance_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--cfg-references",
        type=float,
        metavar="X",
        help="how strongly frames follow the previous frames (guidance scale); 1: as trained",
    )
    group.add_argument(
        "--cfg-anchor", type=float, metavar="X", help="how strongly frames follow the anchor; 1: as trained"
    )
    group.add_argument(
        "--cfg-text",
        metavar="X",
        help="how strongly frames follow the text; 1: as trained; '0: 3, 24: 6' means 3 from frame 0 and 6 from "
        "frame 24 on",
    )
    group.add_argument(
        "--cfg-first", type=float, metavar="X", help="--cfg-text for a first frame that is made from text"
    )


def add_speed_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for speed and memory."""
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
        help="on a GPU, do not use CUDA graphs: same frames, but slower",
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
        help="run the whole networks only every N-th time, and only their outer blocks in between (DeepCache)",
    )
    group.add_argument(
        "--reuse-blocks",
        type=int,
        default=1,
        metavar="B",
        help="how many outer blocks run in between; default: %(default)s",
    )
    group.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        default=(0.0, 1.0),
        metavar=("LOW", "HIGH"),
        help="use guidance only in this part of sampling: 1 is the start (pure noise), 0 the finished image",
    )


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to write")
    group.add_argument(
        "--fps",
        type=float,
        metavar="F",
        help="frames per second, of the video and of times in --prompts; default: as in training",
    )
    group.add_argument(
        "--upscale",
        type=int,
        default=1,
        metavar="N",
        help="enlarge each pixel to NxN pixels, to see small videos better",
    )
    group.add_argument(
        "--stream", action="store_true", help="write a video that you can watch while it grows (OUT.part.mp4)"
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
        help="measure how far each frame is from the first: a row per frame, and at the end a plot (F.png)",
    )
    group.add_argument(
        "--save-latents", type=Path, metavar="F.safetensors", help="save the frames, to continue from them later"
    )


def _add_journal_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "journal",
        "Saves every finished frame, so that a stopped run continues when you run the same "
        "command again. Without these options, videos of more than 32 frames have one, in the folder "
        "artv_journals beside the output.",
    )
    group.add_argument(
        "--journal", type=Path, metavar="DIR", help="keep a journal in this folder, also for short videos"
    )
    group.add_argument("--no-journal", action="store_true", help="keep no journal")
    group.add_argument("--start-over", action="store_true", help="ignore saved frames and start from frame 0")
