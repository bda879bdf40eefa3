"""The part `gpu` of `benchmarks/speed.py`: frames at full size against the fused floor, ModelScope's UNet on the same
card, memory, and `tiny`.

The floors are for one H200: the time that a frame's arithmetic and memory traffic would take at that card's peaks, with
all layers fused. Weights are random; the arithmetic is the same. Sections run in order of importance, in one process,
and each one's figures are written as they come. A section that would not end before the deadline is left out.
`--quick` tries the code with `tiny` on whatever there is.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from artv_core.bench.measure import peak_megabytes, times_of_frames
from artv_core.bench.peers import PeerCase, has_modelscope, measure_modelscope
from artv_core.config import preset
from artv_core.method.generate import GenerateOptions
from artv_core.method.text_track import TextSegment, TextTrack
from artv_core.models.artv import ARTV
from artv_core.run.pipeline import Pipeline, make_pipeline
from artv_core.speed.graphs import Captured

FLOOR_MS = {256: 74.0, 512: 278.0, 768: 742.0}
"""Of a frame with 25 steps of 2S and four branches, on an H200."""

FOUR = {"guidance_references": 1.3, "guidance_anchor": 1.6, "guidance_text": 7.5}
TWO = {"guidance_references": 1.0, "guidance_anchor": 1.0, "guidance_text": 7.5}
STEPS: dict[str, Any] = {"steps": 25, "sampler": "dpmpp_2s_ancestral"}
ONE_EVALUATION: dict[str, Any] = {"steps": 25, "sampler": "dpmpp_2m"}
CLIP = 16
PROMPT = "a large red circle moving right fast on a blue background"

SHARES = {256: (0.20, 0.30), 512: (0.40, 0.45), 768: (0.45, 0.50)}
AGAINST = "GPU against ModelScope's UNet at 512x512, two branches, both captured"
LIMITS: dict[str, tuple[str, float]] = {
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


def measure(quick: bool, seconds: float = 230.0) -> Iterator[dict[str, Any]]:
    """Figures and bars, more of them each time."""
    card = Card(torch.device("cuda" if torch.cuda.is_available() else "cpu"), quick)
    if card.device.type != "cuda" and not quick:
        raise SystemExit("there is no GPU here; --quick tries the code on the CPU")
    deadline = time.monotonic() + seconds
    figures: dict[str, Any] = {"device": card.name, "torch": torch.__version__, "left out": [], "bars": {}}
    for name, needed, section in SECTIONS:
        if time.monotonic() + needed > deadline:
            figures["left out"].append(name)
            continue
        started = time.monotonic()
        try:
            found = section(card, figures)
        except (RuntimeError, ValueError) as error:  # the other sections still count
            figures[name] = {"failed": f"{type(error).__name__}: {str(error)[:500]}"}
        else:
            figures["bars"] |= found.pop("bars", {})
            figures[name] = found | {"took": round(time.monotonic() - started, 1)}
        print(f"  {name}: {figures[name]}", flush=True)
        yield figures
        card.tidy()
    yield figures


@dataclass
class Card:
    """The device, and the one large model that sections share."""

    device: torch.device
    quick: bool
    _pipeline: Pipeline | None = None

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"

    @property
    def sides(self) -> tuple[int, ...]:
        return (64,) if self.quick else (256, 512, 768)

    @property
    def large(self) -> int:
        return 64 if self.quick else 512

    def pipeline(self) -> Pipeline:
        """Networks of SD 2.1's size in bfloat16 (`tiny` in float32 with `--quick`), made ready as users get them."""
        if self._pipeline is None:
            torch.manual_seed(0)
            with torch.device(self.device):
                model = ARTV(preset("tiny" if self.quick else "sd21"), text=False)
            model = model.to(torch.float32 if self.quick else torch.bfloat16).eval().requires_grad_(False)
            self._pipeline = make_pipeline(model)
        return self._pipeline

    def tidy(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def clip(self, pipeline: Pipeline, side: int, frames: int, **options: Any) -> dict[str, float]:
        """A clip, after a few frames that warm up: seconds to the first frame and for each later one, and memory.
        Graphs of clips before it are dropped, so that memory is that of one size."""
        if isinstance(pipeline.evaluate, Captured):
            pipeline.evaluate.reset()
            self.tidy()
        steps = {"steps": 2} if self.quick else {}
        chosen = replace(GenerateOptions(num_frames=frames, width=side, height=side), **options | steps)
        text = any_text(pipeline.model)
        started = time.perf_counter()
        times_of_frames(pipeline.frames(text, replace(chosen, num_frames=3, steps=2)))
        warm_up = time.perf_counter() - started
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        first, last = times_of_frames(pipeline.frames(text, chosen))
        found = {"warm_up": warm_up, "first_frame": first, "per_frame": (last - first) / max(1, frames - 1)}
        found |= {"clip": last, "peak_mb": peak_megabytes(self.device)}
        if self.device.type == "cuda":
            found["reserved_mb"] = torch.cuda.max_memory_reserved(self.device) / 1e6
        return found


def any_text(model: ARTV) -> TextTrack:
    context = torch.randn(model.null_context.shape, generator=torch.Generator().manual_seed(0))
    return TextTrack([TextSegment(0, context.to(model.null_context))])


def agreement(card: Card, figures: dict[str, Any]) -> dict[str, Any]:
    """`tiny`: captured frames against frames launched kernel by kernel, to the bit; and against a CPU's."""
    plain, captured = (Pipeline.from_checkpoint("tiny", device=card.device, graph=graph) for graph in (False, True))
    on_cpu = Pipeline.from_checkpoint("tiny")
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
    latents = [
        torch.stack([frame.latent.cpu().float() for frame in pipeline.frames(PROMPT, GenerateOptions(num_frames=4))])
        for pipeline in (on_cpu, captured)
    ]
    return {
        "frames that differ": differing,
        "largest latent difference from the CPU's, 4 frames": float((latents[0] - latents[1]).abs().max()),
        "fused": captured.model.noise.is_fused,
        "bars": {"GPU: frames of captured runs that differ from eager ones": sum(differing.values())},
    }


def differing_frames(plain: Pipeline, captured: Pipeline, case: dict[str, Any]) -> int:
    prompts = [(0, PROMPT), (2, "a small green star moving up slowly on a black background")]
    options = replace(GenerateOptions(num_frames=4, seed=5), **case)
    pairs = zip(plain.frames(prompts, options), captured.frames(prompts, options), strict=True)
    return sum(not torch.equal(a.latent, b.latent) or not torch.equal(a.image, b.image) for a, b in pairs)


def tiny(card: Card, figures: dict[str, Any]) -> dict[str, Any]:
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


def frames(card: Card, figures: dict[str, Any]) -> dict[str, Any]:
    """Four branches, 25 steps of 2S: time per later frame, and its share of the fused floor."""
    found = {str(side): card.clip(card.pipeline(), side, 5, **STEPS, **FOUR) for side in card.sides}
    bars: dict[str, Any] = {}
    for side in card.sides:
        if "H200" in card.name:
            share = FLOOR_MS[side] / 1000 / found[str(side)]["per_frame"]
            bars[f"GPU, {side}x{side}: share of the fused floor"] = share
        if side > 256:
            bars[f"GPU: peak memory at {side}x{side}, GB"] = found[str(side)]["peak_mb"] / 1000
    return found | {"bars": bars}


def eager(card: Card, figures: dict[str, Any]) -> dict[str, Any]:
    """The same without graphs, for comparison."""
    pipeline = Pipeline(card.pipeline().model)
    return {str(side): card.clip(pipeline, side, 2, **STEPS, **FOUR) for side in card.sides[1:] or card.sides}


def two_branches(card: Card, figures: dict[str, Any]) -> dict[str, Any]:
    """A clip as ModelScope's UNet makes it: 16 frames, two branches; with two evaluations a step and with one."""
    return {
        "25 x 2S": card.clip(card.pipeline(), card.large, CLIP, **STEPS, **TWO),
        "25 x 2M": card.clip(card.pipeline(), card.large, CLIP, **ONE_EVALUATION, **TWO),
    }


def length(card: Card, figures: dict[str, Any]) -> dict[str, Any]:
    """Memory of 10 and of 200 frames."""
    options = {"steps": 2, "sampler": "dpmpp_2m", **TWO}
    small, counts = card.sides[0], (3, 6) if card.quick else (10, 200)
    rows = {str(count): card.clip(card.pipeline(), small, count, **options) for count in counts}
    ratio = rows[str(counts[1])]["peak_mb"] / rows[str(counts[0])]["peak_mb"]
    return rows | {"bars": {"GPU: peak memory of 200 frames over that of 10": ratio}}


def peer(card: Card, figures: dict[str, Any]) -> dict[str, Any]:
    """ModelScope's UNet in diffusers on the same card, captured too: a clip of 16 frames in 50 steps, VAE included."""
    card._pipeline = None
    card.tidy()
    if not has_modelscope():
        raise ValueError("diffusers is not installed")
    if card.quick:
        return {}
    row = measure_modelscope(PeerCase(card.large, card.large, str(card.device), "bfloat16", captured=True))
    own = figures.get("two branches", {})
    if "25 x 2S" not in own:
        return {"clip": row.first_frame, "peak_mb": row.peak_mb}
    bars = {
        f"{AGAINST}: clip rate with 25 x 2S, times theirs": row.first_frame / own["25 x 2S"]["clip"],
        f"{AGAINST}: clip rate with one evaluation a step, times theirs": row.first_frame / own["25 x 2M"]["clip"],
        f"{AGAINST}: time to the first frame, times sooner": row.first_frame / own["25 x 2S"]["first_frame"],
    }
    return {"clip": row.first_frame, "peak_mb": row.peak_mb, "bars": bars}


def compiled(card: Card, figures: dict[str, Any]) -> dict[str, Any]:
    """Networks compiled, then captured."""
    from artv_core.speed.compiled import Compiled

    pipeline = Pipeline(card.pipeline().model, Compiled(card.device))
    side = card.large
    row = card.clip(pipeline, side, 4, **STEPS, **FOUR)
    share = FLOOR_MS.get(side, 1.0) / 1000 / row["per_frame"] if "H200" in card.name else None
    bars = {} if card.quick else {f"GPU, {side}x{side}, compiled: share of the fused floor": share}
    return {str(side): row, "bars": bars}


Section = Callable[[Card, dict[str, Any]], dict[str, Any]]

SECTIONS: list[tuple[str, float, Section]] = [
    ("agreement", 15, agreement),
    ("tiny", 15, tiny),
    ("four branches", 25, frames),
    ("two branches", 20, two_branches),
    ("memory by length", 15, length),
    ("ModelScope's UNet", 35, peer),
    ("four branches, eager", 20, eager),
    ("compiled", 160, compiled),
]
"""Name, seconds that it may take, and what it is."""
