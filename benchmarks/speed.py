"""How fast, at how much work: `python benchmarks/speed.py [--quick] [--parts NAME ...]`.

counted   FLOPs and network calls of a clip at full size, against the formulas as they stand; nothing is timed
tiny      frames per second of the shipped model, against these formulas
gpu       frames at 256, 512 and 768 pixels, their share of the fused floor, and ModelScope's UNet on the same card
          (`benchmarks/speed_gpu.py`); in at most `--seconds`, what is most important first

Writes `benchmarks/results/speed.json` and the tables of `docs/speed.md`; what is there of other parts is kept. Give it
a quiet machine. For one machine's own figures there is `artv bench`; for what a shortcut costs, `quality.py --set`.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import speed_gpu
from documents import as_table, put_tables
from measure.work import Work, video_work
from result_files import Figures, Limits, kept_parts, run_parts

from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.config import preset
from artv_core.method.generate import GenerateOptions
from artv_core.method.samplers import num_evaluations
from artv_core.method.text_track import TextSegment, TextTrack
from artv_core.run.pipeline import Pipeline
from tests.naive import PAPER, naive_frames, naive_work

RESULT = ROOT / "benchmarks/results/speed.json"
DOCUMENT = ROOT / "docs/speed.md"
PROMPT = "a large red circle moving right on a blue background"
CLIP = "16 frames at 512x512, 25 steps of 2S, 4 branches"
OVER_FORMULAS, CALLS = f"{CLIP}: FLOPs over those of the formulas", f"{CLIP}: network calls per evaluation"
RATE = "tiny on a CPU: frames per second over those of the formulas"
LIMITS: Limits = {
    "counted": {OVER_FORMULAS: ("at most", 0.75), CALLS: ("at most", 2)},
    "tiny": {RATE: ("at least", 3)},
    "gpu": speed_gpu.LIMITS,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=230.0, help="that the part gpu may take; default: %(default)g")
    args = run_parts(parser, RESULT, LIMITS, measure, asked_for=("gpu",))
    if not args.quick:
        put_tables(DOCUMENT, tables(kept_parts(RESULT)))


def measure(part: str, args: argparse.Namespace) -> Figures | Iterator[Figures]:
    """A part's figures."""
    if part == "gpu":
        return speed_gpu.measure(args.quick, args.seconds)
    return {"counted": counted, "tiny": tiny}[part](args.quick)


# On a CPU

MODELSCOPE = 20_827e9 * 50 * 2
"""FLOPs of a clip of 16 frames at 512x512 by ModelScope's UNet: 50 steps, two branches."""
OTHER_WAYS: dict[str, dict[str, Any]] = {
    "two branches": speed_gpu.TWO,
    "reuse 2": {"reuse_every": 2},
    "reuse 2, 3 blocks": {"reuse_every": 2, "reuse_blocks": 3},
    "reuse 3": {"reuse_every": 3},
    "guidance 0.3-1": {"guidance_interval": (0.3, 1.0)},
    "dpmpp_2m": {"sampler": "dpmpp_2m"},
}


def counted(quick: bool) -> Figures:
    """Work of a clip on the meta device: of the whole, of one frame in its midst, and with each shortcut."""

    def giga(work: Work) -> float:
        return round(work.flops / 1e9, 1)

    side, config = 64 if quick else 512, preset("sd21")
    options = replace(PAPER, num_frames=16, height=side, width=side)
    clip, frame = video_work(config, options)
    evaluations = options.num_frames * num_evaluations("dpmpp_2s_ancestral", 25)
    formulas = naive_work(config, (side // 8, side // 8)) * (4 * evaluations)
    ways = {name: giga(video_work(config, replace(options, **changes))[0]) for name, changes in OTHER_WAYS.items()}
    return {
        "GFLOP of the clip": giga(clip),
        "GFLOP of a frame": giga(frame),
        "kernels of a frame": frame.kernels,
        "GFLOP by the formulas": giga(formulas),
        "share of ModelScope's FLOPs": clip.flops / MODELSCOPE,
        "GFLOP of the clip in other ways": ways,
        "a frame": asdict(frame),
        "bars": {OVER_FORMULAS: clip.flops / formulas.flops, CALLS: clip.network_calls / evaluations},
    }


def tiny(quick: bool) -> Figures:
    """Processor seconds per frame, image included, in turns in one process, with the recommended settings."""
    torch.set_num_threads(1)
    plain, pipeline = load_checkpoint(resolve_checkpoint("tiny")), Pipeline.from_checkpoint("tiny")
    text = TextTrack([TextSegment(0, plain.encode_text([PROMPT])[0])])
    rounds, frames = (1, 3) if quick else (5, 8)
    options = GenerateOptions(num_frames=frames, seed=1)

    @torch.no_grad()
    def formulas() -> Iterator[Tensor]:
        for latent in naive_frames(plain, text, options):
            yield plain.decode_latents(latent)

    def seconds(frames_of: Callable[[], Iterator[Any]]) -> float:
        started = time.process_time()
        for _ in frames_of():
            pass
        return (time.process_time() - started) / frames

    times = [(seconds(lambda: pipeline.frames(text, options)), seconds(formulas)) for _ in range(rounds + 1)][1:]
    ratios = sorted(theirs / own for own, theirs in times)  # the first round warms up
    named = {name: [pair[place] for pair in times] for place, name in enumerate(("ours", "formulas"))}
    return {"processor seconds per frame": named, "bars": {RATE: ratios[len(ratios) // 2]}}


# Tables


def tables(parts: Mapping[str, Figures]) -> dict[str, str]:
    """Of each part that was measured and has one."""
    made = {"counted": counted_table, "gpu": gpu_table}
    return {name: table(parts[name]) for name, table in made.items() if name in parts}


def counted_table(part: Figures) -> str:
    """Clips of 16 frames at 512x512."""
    clip = part["GFLOP of the clip"]
    ways = {"the formulas as they stand": part["GFLOP by the formulas"], "ARTV": clip}
    ways["ModelScope's UNet"] = clip / part["share of ModelScope's FLOPs"]
    ways |= {f"ARTV, {name}": flops for name, flops in part["GFLOP of the clip in other ways"].items()}
    rows = {name: [f"{flops / 1e3:,.0f}", f"{flops / clip:.2f}"] for name, flops in ways.items()}
    return as_table(["TFLOP", "beside ARTV"], rows, first="way")


def gpu_table(part: Figures) -> str:
    """Clips of the sections that were not left out."""
    rows = {}
    for section in ("four branches", "four branches, eager", "two branches", "compiled", "tiny"):
        for name, row in part.get(section, {}).items():
            if isinstance(row, dict):
                side = f"{name}x{name}" if name.isdecimal() else name
                seconds = [readable(row[what]) for what in ("warm_up", "first_frame", "per_frame")]
                rows[f"{section}, {side}"] = [*seconds, f"{row['peak_mb'] / 1000:.2f}"]
    if "clip" in (peer := part.get("ModelScope's UNet", {})):
        clip = ["", f"{peer['clip']:.3g}", "", f"{peer['peak_mb'] / 1000:.2f}"]
        rows["ModelScope's UNet, 512x512: the whole clip"] = clip
    header = ["warm-up, s", "first frame, s", "each later frame, s", "memory, GB"]
    return as_table(header, rows, first=part["device"])


def readable(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < 1 else f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.3g}"


if __name__ == "__main__":
    main()
