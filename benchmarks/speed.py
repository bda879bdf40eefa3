"""How fast, at how much work: `python benchmarks/speed.py [--quick] [--parts NAME ...]`.

tiny  frames per second of the shipped model, against the formulas as they stand
gpu   frames at 256, 512 and 768 pixels against the fused floor, ModelScope's UNet on the same card, memory, and `tiny`.
      The floors are for one H200: the time that a frame's arithmetic and memory traffic would take at that card's
      peaks, with all layers fused. Weights are random; the arithmetic is the same. Sections run in order of importance;
      one that would not end within `--seconds` is left out. `--quick` tries the code with `tiny`

Also writes the table of `docs/speed.md`. Give it a quiet machine. For one machine's own figures there is `artv bench`;
for what a shortcut costs in quality, `quality.py --set`. That nothing shared changes a frame, and how much work it
saves, is in `tests/test_savings.py`.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from result_files import ROOT, Figures, Limits, card_or_quick, clear, commit, kept_parts, parser_of, run_parts
from result_files import run_sections as run_all
from tables import as_table, put_tables
from torch import Tensor

from artv_core.bench.measure import measure_video
from artv_core.bench.peers import PeerCase, has_modelscope, measure_modelscope
from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.config import preset
from artv_core.method.options import GenerateOptions
from artv_core.method.text_track import TextSegment, TextTrack
from artv_core.models.artv import ARTV
from artv_core.run.pipeline import Pipeline, make_pipeline
from artv_core.speed.compiled import Compiled
from artv_core.speed.graphs import Captured
from tests.naive import naive_frames

RESULT = ROOT / "benchmarks/results/speed.json"
DOCUMENT = ROOT / "docs/speed.md"
PROMPT = "a large red circle moving right on a blue background"
RATE = "tiny on a CPU: frames per second over those of the formulas"
FLOOR_MS = {256: 74.0, 512: 278.0, 768: 742.0}
"""Of a frame with 25 steps of 2S and four branches, on an H200."""

FOUR = {"guidance_references": 1.3, "guidance_anchor": 1.6, "guidance_text": 7.5}
TWO = {"guidance_references": 1.0, "guidance_anchor": 1.0, "guidance_text": 7.5}
STEPS: dict[str, Any] = {"steps": 25, "sampler": "dpmpp_2s_ancestral"}
ONE_EVALUATION: dict[str, Any] = {"steps": 25, "sampler": "dpmpp_2m"}
CLIP = 16

SHARES = {256: (0.20, 0.30), 512: (0.40, 0.45), 768: (0.45, 0.50)}
AGAINST = "GPU against ModelScope's UNet at 512x512, two branches, both captured"
GPU_LIMITS: dict[str, tuple[str, float]] = {
    "GPU: frames of captured runs that differ from eager ones": ("at most", 0),
    **{f"GPU, {side}x{side}: share of the fused floor": ("at least", share) for side, (share, _) in SHARES.items()},
    **{f"GPU, {s}x{s}, compiled: share of the fused floor": ("at least", share) for s, (_, share) in SHARES.items()},
    f"{AGAINST}: clip rate with 25 x 2S, times theirs": ("at least", 1.3),
    f"{AGAINST}: clip rate with one evaluation a step, times theirs": ("at least", 2),
    f"{AGAINST}: time to the first frame, times sooner": ("at least", 20),
    "GPU: peak memory at 512x512, GB": ("at most", 3.7),
    "GPU: peak memory at 768x768, GB": ("at most", 4.3),
    "GPU: peak memory of 200 frames over that of 10": ("at most", 1.001),
    "GPU: frames per second of tiny": ("at least", 30),
}
LIMITS: Limits = {"tiny": {RATE: ("at least", 3)}, "gpu": GPU_LIMITS}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--seconds", type=float, default=230.0, help="that the part gpu may take; default: %(default)g")
    parser.add_argument("--sections", nargs="+", choices=[one[0] for one in SECTIONS], help="only these, of part gpu")
    measure = {"tiny": tiny, "gpu": gpu}
    args = run_parts(parser, RESULT, LIMITS, lambda part, args: measure[part](args), asked_for=("gpu",))
    if not args.quick:
        put_tables(DOCUMENT, {"gpu": gpu_table(kept_parts(RESULT)["gpu"])})


def tiny(args: argparse.Namespace) -> Figures:
    """Processor seconds per frame, image included, in turns in one process, with the recommended settings."""
    torch.set_num_threads(1)
    plain, pipeline = load_checkpoint(resolve_checkpoint("tiny")), Pipeline.from_checkpoint("tiny")
    text = TextTrack([TextSegment(0, plain.encode_text([PROMPT])[0])])
    rounds, frames = (1, 3) if args.quick else (5, 8)
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


# On a GPU


def gpu(args: argparse.Namespace) -> Iterator[Figures]:
    """Figures and bars, more of them each time."""
    card, deadline = Card(args.quick), time.monotonic() + args.seconds
    own: Figures = {"device": card.name, "torch": torch.__version__, "commit": commit()}
    kept = kept_parts(RESULT).get("gpu", {}) | {"left out": []} if args.sections else own
    every = {name: (name, needed, lambda seen, make=make: make(card, seen) | own) for name, needed, make in SECTIONS}
    for figures in run_all([every[name] for name in args.sections or every], kept, deadline):
        yield figures
        clear()


class Card:
    """The device, and the one large model that sections share."""

    def __init__(self, quick: bool) -> None:
        self.quick, self.device = quick, torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.on_cuda = self.device.type == "cuda"
        self.name = card_or_quick(quick)
        self.sides, self.large = ((64,), 64) if quick else ((256, 512, 768), 512)
        self.shared: Pipeline | None = None

    def pipeline(self) -> Pipeline:
        """Networks of SD 2.1's size in bfloat16 (`tiny` in float32 with `--quick`), made ready as users get them."""
        if self.shared is None:
            torch.manual_seed(0)
            with torch.device(self.device):
                model = ARTV(preset("tiny" if self.quick else "sd21"), text=False)
            model = model.to(torch.float32 if self.quick else torch.bfloat16).eval().requires_grad_(False)
            self.shared = make_pipeline(model)
        return self.shared

    def clip(self, pipeline: Pipeline, side: int, frames: int, **options: Any) -> Figures:
        """A clip, after a few frames that warm up: seconds to the first frame and for each later one, and memory.
        Graphs of clips before it are dropped, so that memory is that of one size."""
        if isinstance(pipeline.run_networks, Captured):
            pipeline.run_networks.reset()
            clear()
        steps = {"steps": 2} if self.quick else {}
        chosen = replace(GenerateOptions(num_frames=frames, width=side, height=side), **options | steps)
        row = measure_video("clip", pipeline, chosen, replace(chosen, num_frames=3, steps=2))
        return asdict(row) | {"clip": row.first_frame + row.per_frame * (frames - 1)}


def agreement(card: Card, figures: Figures) -> Figures:
    """`tiny`: captured frames against frames launched kernel by kernel, to the bit."""
    plain, captured = (Pipeline.from_checkpoint("tiny", device=card.device, graph=graph) for graph in (False, True))
    cases = {
        "as it is": {},
        "96x64": {"height": 64, "width": 96},
        "a batch of 2": {"batch_size": 2},
        "four branches": FOUR,
        "reuse 2": {"reuse_every": 2},
        "guidance 0.3 to 0.8": {"guidance_interval": (0.3, 0.8), "guidance_text": 3.0},
        "2S": {"sampler": "dpmpp_2s_ancestral", "steps": 6},
    }
    differing = {name: differing_frames(plain, captured, case) for name, case in cases.items()}
    return {
        "frames that differ": differing,
        "fused": captured.model.noise.is_fused,
        "bars": {"GPU: frames of captured runs that differ from eager ones": sum(differing.values())},
    }


def differing_frames(plain: Pipeline, captured: Pipeline, case: dict[str, Any]) -> int:
    prompts = [(0, PROMPT), (2, "a small green star moving up slowly on a black background")]
    options = replace(GenerateOptions(num_frames=4, seed=5), **case)
    pairs = zip(plain.frames(prompts, options), captured.frames(prompts, options), strict=True)
    return sum(not torch.equal(a.latent, b.latent) or not torch.equal(a.image, b.image) for a, b in pairs)


def tiny_on_card(card: Card, figures: Figures) -> Figures:
    """Frames a second of the shipped checkpoint with its recommended settings, images in main memory."""
    found: dict[str, Any] = {}
    for graph in (True, False):
        for dtype in (torch.float32, torch.float16):
            pipeline = Pipeline.from_checkpoint("tiny", device=card.device, dtype=dtype, graph=graph)
            row = card.clip(pipeline, 64, 8 if card.quick or not graph else 64)
            name = f"{str(dtype).removeprefix('torch.')}, {'captured' if graph else 'eager'}"
            found[name] = row | {"frames_per_second": 1 / row["per_frame"]}
    best = max(row["frames_per_second"] for row in found.values())
    return found | {"bars": {"GPU: frames per second of tiny": best}}


def frames(card: Card, figures: Figures) -> Figures:
    """Four branches, 25 steps of 2S: time per later frame, and its share of the fused floor."""
    found = {str(side): card.clip(card.pipeline(), side, 5, **STEPS, **FOUR) for side in card.sides}
    bars: dict[str, Any] = {}
    for side, row in zip(card.sides, found.values(), strict=True):
        if "H200" in card.name:
            bars[f"GPU, {side}x{side}: share of the fused floor"] = FLOOR_MS[side] / 1000 / row["per_frame"]
        if side > 256:
            bars[f"GPU: peak memory at {side}x{side}, GB"] = row["peak_mb"] / 1000
    return found | {"bars": bars}


def two_branches(card: Card, figures: Figures) -> Figures:
    """A clip as ModelScope's UNet makes it: 16 frames, two branches; with two evaluations a step and with one."""
    return {
        "25 x 2S": card.clip(card.pipeline(), card.large, CLIP, **STEPS, **TWO),
        "25 x 2M": card.clip(card.pipeline(), card.large, CLIP, **ONE_EVALUATION, **TWO),
    }


def length(card: Card, figures: Figures) -> Figures:
    """Memory of 10 and of 200 frames."""
    options = {"steps": 2, "sampler": "dpmpp_2m", **TWO}
    small, counts = card.sides[0], (3, 6) if card.quick else (10, 200)
    rows = {str(count): card.clip(card.pipeline(), small, count, **options) for count in counts}
    ratio = rows[str(counts[1])]["peak_mb"] / rows[str(counts[0])]["peak_mb"]
    return rows | {"bars": {"GPU: peak memory of 200 frames over that of 10": ratio}}


def peer(card: Card, figures: Figures) -> Figures:
    """ModelScope's UNet in diffusers on the same card, captured too: a clip of 16 frames in 50 steps, VAE included."""
    card.shared = None
    clear()
    if not has_modelscope():
        raise ValueError("diffusers is not installed")
    if card.quick:
        return {}
    row = measure_modelscope(PeerCase(card.large, card.large, str(card.device), "bfloat16", captured=True))
    found, own = {"clip": row.first_frame, "peak_mb": row.peak_mb}, figures.get("two branches", {})
    if "25 x 2S" not in own:
        return found
    theirs, twice = row.first_frame, own["25 x 2S"]
    rates = (theirs / twice["clip"], theirs / own["25 x 2M"]["clip"], theirs / twice["first_frame"])
    return found | {"bars": dict(zip((name for name in GPU_LIMITS if name.startswith(AGAINST)), rates, strict=True))}


def compiled(side: int, card: Card, figures: Figures) -> Figures:
    """Networks compiled, then captured."""
    side = card.large if card.quick else side
    row = card.clip(Pipeline(card.pipeline().model, Compiled(card.device)), side, 4, **STEPS, **FOUR)
    share = FLOOR_MS.get(side, 1.0) / 1000 / row["per_frame"] if "H200" in card.name else None
    bars = {} if card.quick else {f"GPU, {side}x{side}, compiled: share of the fused floor": share}
    return {str(side): row, "bars": bars}


SECTIONS: list[tuple[str, float, Callable[[Card, Figures], Figures]]] = [
    ("agreement", 15, agreement),
    ("tiny", 15, tiny_on_card),
    ("four branches", 25, frames),
    ("two branches", 20, two_branches),
    ("memory by length", 15, length),
    ("ModelScope's UNet", 35, peer),
    *[(f"compiled {side}", 120.0, partial(compiled, side)) for side in (512, 256, 768)],
]
"""Name, seconds that it may take, and what it is."""


def gpu_table(part: Figures) -> str:
    """Clips of the sections that were not left out."""
    rows = {}
    sizes = [name for name, *_ in SECTIONS if name.startswith("compiled")]
    for section in ("four branches", "four branches, eager", "two branches", *sizes, "tiny"):
        for name, row in part.get(section, {}).items():
            if isinstance(row, dict):
                side = f"{name}x{name}" if name.isdecimal() else name
                side += ", 512x512" * (section == "two branches")
                seconds = [readable(row[what]) for what in ("warm_up", "first_frame", "per_frame")]
                rows[f"{section.rstrip(' 0123456789')}, {side}"] = [*seconds, f"{row['peak_mb'] / 1000:.2f}"]
    if "clip" in (peer := part.get("ModelScope's UNet", {})):
        clip = ["", f"{peer['clip']:.3g}", "", f"{peer['peak_mb'] / 1000:.2f}"]
        rows["ModelScope's UNet, 512x512: the whole clip"] = clip
    header = ["warm-up, s", "first frame, s", "each later frame, s", "memory, GB"]
    return as_table(header, rows, first=part["device"])


def readable(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < 1 else f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.3g}"


if __name__ == "__main__":
    main()
