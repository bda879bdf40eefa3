"""How fast, at how much work: `python benchmarks/speed.py [--quick] [--parts NAME ...]`.

counted   FLOPs, network calls and kernels of a clip at full size, against the formulas as they stand; nothing is timed
exact     the shipped model's latents with everything shared and kept, against these formulas
unet      our UNet of SD 2.1's size beside diffusers' and ComfyUI's: thread time of one thread, bfloat16, on a CPU
captured  what a GPU replays as CUDA graphs, on a CPU: the same frames, one replay an evaluation, no waits
tiny      frames per second of the shipped model, against these formulas
growth    whether a frame takes longer the more there were before it, over 2,000 frames
cpu       what `artv bench` finds on this machine's CPU, ModelScope's UNet beside it
options   what each shortcut saves, and what it costs in quality
gpu       frames at 256, 512 and 768 pixels, their share of the fused floor, and ModelScope's UNet on the same card;
          in at most `--seconds`, what is most important first

Writes `benchmarks/results/speed.json` and the tables of `docs/speed.md`; what is there of parts that are not run now
is kept. Give it a quiet machine; `unet` wants diffusers and a ComfyUI ($COMFYUI_PATH or ~/comfy/ComfyUI), and 16 GB of
memory.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from result_files import run_parts
from speed_parts.written import write_document

RESULT = ROOT / "benchmarks/results/speed.json"

AGAINST_MODELSCOPE = "GPU against ModelScope's UNet at 512x512, two branches, both captured"

BARS: dict[str, dict[str, tuple[str, float]]] = {
    "counted": {
        "16 frames at 512x512, 25 steps of 2S, 4 branches: FLOPs over those of the formulas": ("at most", 0.75),
        "16 frames at 512x512, 25 steps of 2S, 4 branches: network calls per evaluation": ("at most", 2),
    },
    "exact": {"exactness, 16 frames of tiny: largest relative difference in float64": ("at most", 1e-9)},
    "unet": {
        "UNet of SD 2.1, 32x32, batch 4, bfloat16, one CPU thread: time over diffusers'": ("at most", 0.93),
        "UNet of SD 2.1, 32x32, batch 4, bfloat16, one CPU thread: time over ComfyUI's": ("at most", 1.0),
    },
    "captured": {
        "captured evaluations, on a CPU with a stand-in: frames that differ from the plain way's": ("at most", 0),
        "captured evaluations, on a CPU with a stand-in: replays per evaluation": ("at most", 1),
        "frame loop: waits for the device per frame": ("at most", 0),
    },
    "tiny": {"tiny on a CPU: frames per second over those of the formulas": ("at least", 3)},
    "growth": {"2,000 frames: rise of the time per frame over its standard error": ("at most", 2)},
    "gpu": {
        "GPU: frames of captured runs that differ from eager ones": ("at most", 0),
        "GPU, 256x256: share of the fused floor": ("at least", 0.20),
        "GPU, 512x512: share of the fused floor": ("at least", 0.40),
        "GPU, 768x768: share of the fused floor": ("at least", 0.45),
        "GPU, 256x256, compiled: share of the fused floor": ("at least", 0.30),
        "GPU, 512x512, compiled: share of the fused floor": ("at least", 0.45),
        "GPU, 768x768, compiled: share of the fused floor": ("at least", 0.50),
        f"{AGAINST_MODELSCOPE}: clip rate with 25 x 2S, times theirs": ("at least", 1.3),
        f"{AGAINST_MODELSCOPE}: clip rate with one evaluation a step, times theirs": ("at least", 2),
        f"{AGAINST_MODELSCOPE}: time to the first frame, times sooner": ("at least", 20),
        "GPU: peak memory at 512x512, GB": ("at most", 3.7),
        "GPU: peak memory at 768x768, GB": ("at most", 4.3),
        "GPU: peak memory of 200 frames over that of 10": ("at most", 1.001),
        "GPU: frames per second of tiny": ("at least", 30),
    },
    "cpu": {},
    "options": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=230.0, help="that the part gpu may take; default: %(default)g")
    args = run_parts(parser, RESULT, BARS, measure, asked_for=("gpu",))
    if not args.quick:
        write_document(json.loads(RESULT.read_text())["parts"])


def measure(part: str, args: argparse.Namespace) -> dict[str, Any] | Iterator[dict[str, Any]]:
    """A part's figures."""
    within = (args.seconds,) if part == "gpu" else ()
    return importlib.import_module(f"speed_parts.{part}").measure(args.quick, *within)


if __name__ == "__main__":
    main()
