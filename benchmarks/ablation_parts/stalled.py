"""Have the runs of "settled" anything left to gain? Loss on fresh clips and drift, before their steps and after."""

from dataclasses import asdict, replace
from typing import Any

from accelerate import Accelerator

from ablation_parts.measured import PROMPTS, from_text
from ablation_parts.runs import TrainingPlan, planned, share, trained, work_through
from ablation_parts.settled import BUDGET
from ablation_parts.variants import FRAMES, VARIANTS
from artv_core.models.artv import ARTV
from artv_core.training.config import TrainConfig
from artv_core.training.diffusion import DiffusionTraining
from artv_core.training.held_out import held_out_losses
from artv_core.training.run import run as train
from artv_core.training.samples import Clips
from artv_core.training.start import starting_model, synthetic_clips
from artv_core.training.synthetic_clips import provenance, read_clips

__all__ = ["BUDGET", "measure", "names"]
FRESH_CLIPS = 256
SAMPLES = 256
"""Of each quarter of the time steps."""
FRESH_SEED = 4
"""No run learns from the clips of this seed."""


def names(everything: bool) -> tuple[str, ...]:
    """The two that are to be compared when neither gains any more."""
    return ("full", "no mask network")


def measure(plan: TrainingPlan, kept: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Every run of the plan that is in `kept`, or that there is time for; what is not trained yet is trained."""

    def one(name: str, seed: int) -> dict[str, Any]:
        variant, config = VARIANTS[name], planned(VARIANTS[name], name, seed, plan)
        after, _ = trained(variant, name, seed, plan)
        before = starting_model(config).eval()
        prompts, frames = (2, 20) if quick else (PROMPTS, FRAMES)
        rolled, _ = from_text(before, variant, prompts, frames, seed, plan.folder(name, seed))
        clips = fresh_clips(config, plan, 8 if quick else FRESH_CLIPS)
        losses = [fresh_loss(model, config, clips, 4 if quick else SAMPLES) for model in (before, after)]
        drift = f"background drift at frame {frames - 1}"
        return {
            "measured": {
                "loss on fresh clips, before": round(losses[0], 5),
                "loss on fresh clips, after": round(losses[1], 5),
                "change of the loss, percent": round(100 * (losses[1] / losses[0] - 1), 3),
                f"{drift}, before": rolled["measured"][drift],
            }
        }

    runs = work_through(plan, asdict(plan.budget), kept.get("runs", {}), one)
    return {"budget": str(plan.budget), "prompts": PROMPTS, "frames": FRAMES, "runs": runs, "bars": {}}


def fresh_clips(config: TrainConfig, plan: TrainingPlan, count: int) -> Clips:
    """Clips of the run's world that are held out in full."""
    stage = replace(config.latents, clips=count, seed=FRESH_SEED)
    fresh = replace(config, name=f"{config.world}-{count}-fresh-clips", latents=stage)
    folder, vae = plan.work / fresh.name, plan.work / fresh.name / "vae.safetensors"
    share([vae.name], plan.work / config.name, folder)
    train(fresh, str(plan.work), ["latents"], resume=True)
    clips = synthetic_clips(fresh, read_clips(fresh, provenance(fresh, vae), folder / "latents.safetensors"))
    return replace(clips, held_out=clips.trained_on)


def fresh_loss(model: ARTV, config: TrainConfig, clips: Clips, samples: int) -> float:
    """Mean training loss over all time steps, every condition kept; the same samples for each model of a seed."""
    stage = replace(config.diffusion, evaluate_samples=samples, evaluate_bands=4)
    training = DiffusionTraining(replace(config, diffusion=stage), model, clips)
    found = held_out_losses(training, Accelerator(), training.module.eval())
    bands = [loss for name, loss in found.items() if "/steps_" in name]
    return sum(bands) / len(bands)
