"""The shipped checkpoint for 1,000 frames, and at sizes that it was never trained at."""

from typing import Any

from documents import save_lines
from result_files import holds

from ablation_parts.measured import figures, from_text
from ablation_parts.pictures import FOLDER, save_sheet
from ablation_parts.runs import Variant
from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.evaluation.quality import quality_clips

LONG = 1000
PROMPTS = 16
FACTORS = (1.0, 1.5, 2.0)

DRIFT = "1,000 frames of the shipped checkpoint: background drift at frame 999"
SHARPNESS = "1,000 frames of the shipped checkpoint: sharpness at frame 999 over frame 1, away from 1"
LOST = "1,000 frames of the shipped checkpoint: share of runs that lost the object"
DIRECTION = "1,000 frames of the shipped checkpoint: share within 30 degrees at frames 984-999"
FROZEN = "1,000 frames of the shipped checkpoint: of these bars missed by a frozen video"

LIMITS: dict[str, tuple[str, float]] = {
    DRIFT: ("at most", 4),
    SHARPNESS: ("at most", 0.2),
    LOST: ("at most", 0.3),
    DIRECTION: ("at least", 0.6),
}
LONG_BARS = LIMITS | {FROZEN: ("at least", 1)}


def measure(part: str, quick: bool) -> dict[str, Any]:
    """`part` is "long" or "sizes"."""
    return measure_long(quick) if part == "long" else measure_sizes(quick)


def measure_long(quick: bool) -> dict[str, Any]:
    """Videos from text, and beside them what a video that repeats its first frame would get."""
    model = load_checkpoint(resolve_checkpoint("tiny"))
    prompts, frames = (2, 40) if quick else (PROMPTS, LONG)
    found, videos = from_text(model, Variant(), prompts, frames)
    frozen = figures(videos[:, :1].expand(-1, frames, -1, -1, -1), quality_clips(prompts))
    bars, still = bars_of(found["measured"], frames), bars_of(frozen["measured"], frames)
    if not quick:
        save_sheet(videos, "1000-frames", rows=8, columns=10)
        draw(found["curves"])
    return {
        "checkpoint": model.config.name,
        "prompts": prompts,
        **found,
        "frozen": frozen["measured"],
        "bars": bars | {FROZEN: sum(not holds(still[name], *limit) for name, limit in LIMITS.items())},
    }


def bars_of(measured: dict[str, float], frames: int) -> dict[str, float]:
    last = frames - 1
    return {
        DRIFT: measured[f"background drift at frame {last}"],
        SHARPNESS: abs(measured[f"sharpness at frame {last} over frame 1"] - 1),
        LOST: 1 - measured[f"object there at frame {last}"],
        DIRECTION: measured[f"direction at frames {last - 15}-{last}"],
    }


def draw(curves: dict[str, list[float]]) -> None:
    panels = {name: {"shipped": [(curves["frame"], values)]} for name, values in curves.items() if name != "frame"}
    save_lines(FOLDER / "drift-1000-frames.png", panels, "frame")


def measure_sizes(quick: bool) -> dict[str, Any]:
    """64 frames at each size, no setting changed."""
    model, found = load_checkpoint(resolve_checkpoint("tiny")), {}
    prompts, frames = (2, 20) if quick else (32, 64)
    for factor in FACTORS:
        height, width = (round(side * factor) for side in model.config.size)
        name = f"{width}x{height}"
        found[name], videos = from_text(model, Variant(), prompts, frames, height=height, width=width)
        print(f"  {name}: {found[name]['measured']}", flush=True)
        if not quick:
            save_sheet(videos, f"size-{name}")
    return {"checkpoint": model.config.name, "prompts": prompts, "frames": frames, "ways": found, "bars": {}}
