"""`tiny` trained from nothing as the paper has it, and without one part of it each."""

from dataclasses import asdict
from typing import Any

from ablation_parts.measured import PROMPTS, from_text
from ablation_parts.pictures import save_sheet
from ablation_parts.runs import Budget, TrainingPlan, Variant, levels, trained, work_through

MAIN = ("full", "no mask network", "no noise augmentation")
"""What a CPU alone does unless more is asked for."""

ONE_REFERENCE = {"adapter": {"num_references": 1}}


VARIANTS = {
    "full": Variant(),
    "no mask network": Variant(overrides={"mask": None}),
    "no noise augmentation": Variant(stage={"max_noise_level": 0}, options=levels(0)),
    "no anchor": Variant(stage={"drop_anchor": 1.0}, anchor="none"),
    "noised copy": Variant(noised_copy=True),
    "one reference": Variant(overrides={"noise": ONE_REFERENCE, "mask": ONE_REFERENCE}),
    "noise levels 0 to 400": Variant(stage={"max_noise_level": 400}, options=levels(200)),
}
"""The last has the paper's levels; `tiny` is trained at 0 to 100 and sampled at 50."""

FRAMES = 64
BUDGET = Budget()


def names(everything: bool) -> tuple[str, ...]:
    """What is trained unless variants are named."""
    return tuple(VARIANTS) if everything else MAIN


def measure(plan: TrainingPlan, kept: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Every run of the plan that is in `kept`, or that there is time for."""

    def one(name: str, seed: int) -> dict[str, Any]:
        model, seconds = trained(VARIANTS[name], name, seed, plan)
        prompts, frames = (4, 20) if quick else (PROMPTS, FRAMES)
        found, videos = from_text(model, VARIANTS[name], prompts, frames, seed, plan.folder(name, seed))
        if seed == 1 and not quick:
            save_sheet(videos, f"{plan.part}-{name}")
        return found | {"training, CPU s": round(seconds)}

    return {
        "budget": str(plan.budget),
        "prompts": PROMPTS,
        "frames": FRAMES,
        "runs": work_through(plan, asdict(plan.budget), kept.get("runs", {}), one),
        "bars": {},
    }
