"""The shipped checkpoint for 1,000 frames, and what a video that repeats its first frame would get."""

from collections.abc import Mapping, Sequence
from typing import Any

from result_files import holds

from ablation_parts.measured import figures, from_text
from ablation_parts.pictures import save_sheet
from ablation_parts.runs import Plan, Variant, work_through
from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.synthetic.quality import quality_clips

NAME = "shipped"
PROMPTS, FRAMES = 16, 1000

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
BARS = LIMITS | {FROZEN: ("at least", 1)}


def measure(plan: Plan, kept: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Videos from text; the bars are of the mean over the seeds."""
    model = load_checkpoint(resolve_checkpoint("tiny"))
    prompts, frames = (2, 40) if quick else (PROMPTS, FRAMES)
    facts = {"checkpoint": model.config.name, "prompts": prompts, "frames": frames}

    def one(name: str, seed: int) -> dict[str, Any]:
        found, videos = from_text(model, Variant(), prompts, frames, seed, folder=plan.folder(name, seed))
        if seed == 0 and not quick:
            save_sheet(videos, "1000-frames", rows=8, columns=10)
        still = figures(videos[:, :1].expand(-1, frames, -1, -1, -1), quality_clips(prompts))
        return found | {"frozen": still["measured"]}

    runs = work_through(plan, facts, kept.get("runs", {}), one)
    return facts | {"runs": runs, "bars": bars_of_all(list(runs.values()), frames)}


def bars_of_all(runs: Sequence[Mapping[str, Any]], frames: int) -> dict[str, float]:
    """Of the runs and of what a frozen video would get; nothing where there are no runs."""
    if not runs:
        return {}
    ours, still = (bars_of(mean([run[of] for run in runs]), frames) for of in ("measured", "frozen"))
    return ours | {FROZEN: sum(not holds(still[name], *limit) for name, limit in LIMITS.items())}


def bars_of(measured: Mapping[str, float], frames: int) -> dict[str, float]:
    last = frames - 1
    return {
        DRIFT: measured[f"background drift at frame {last}"],
        SHARPNESS: abs(measured[f"sharpness at frame {last} over frame 1"] - 1),
        LOST: 1 - measured[f"object there at frame {last}"],
        DIRECTION: measured[f"direction at frames {last - 15}-{last}"],
    }


def mean(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of figures that each of the tables has."""
    names = [name for name in tables[0] if all(table.get(name) is not None for table in tables)]
    return {name: sum(table[name] for table in tables) / len(tables) for name in names}
