"""With and without the mask network, 1,000 frames on: the models of the part "settled"."""

from dataclasses import asdict
from typing import Any

from ablation_parts.measured import from_text
from ablation_parts.pictures import save_sheet
from ablation_parts.runs import TrainingPlan, trained, work_through
from ablation_parts.settled import BUDGET
from ablation_parts.variants import VARIANTS

__all__ = ["BUDGET", "measure", "names"]
PROMPTS, FRAMES = 8, 1000


def names(everything: bool) -> tuple[str, ...]:
    """The two that are compared."""
    return ("full", "no mask network")


def measure(plan: TrainingPlan, kept: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Every run of the plan that is in `kept`, or that there is time for; what is not trained yet is trained."""

    def one(name: str, seed: int) -> dict[str, Any]:
        model, _ = trained(VARIANTS[name], name, seed, plan)
        prompts, frames = (2, 40) if quick else (PROMPTS, FRAMES)
        found, videos = from_text(model, VARIANTS[name], prompts, frames, seed, plan.folder(name, seed))
        if seed == 1 and not quick:
            save_sheet(videos, f"far-{name}")
        return found

    runs = work_through(plan, asdict(plan.budget), kept.get("runs", {}), one)
    return {"budget": str(plan.budget), "prompts": PROMPTS, "frames": FRAMES, "runs": runs, "bars": {}}
