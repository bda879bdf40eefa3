"""One frame at a time against all 16 at once: networks of as many parameters, shown as many frames in training."""

import json
from dataclasses import asdict
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ablation_parts.measured import PROMPTS, figures, from_text
from ablation_parts.one_shot import build, flops_per_step, sample_one_shot, train_one_shot
from ablation_parts.pictures import save_sheet
from ablation_parts.runs import (
    WORLD_SEED,
    Budget,
    TrainingPlan,
    Variant,
    clips_of,
    counted_seconds,
    run_config,
    trained,
    work_through,
)
from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.config import preset
from artv_core.models.artv import ARTV
from artv_core.synthetic.quality import quality_clips
from artv_core.synthetic.shapes import sample_clip
from artv_core.training.config import DiffusionStage
from artv_core.training.diffusion import MaskedDiffusionLoss, meta_arguments
from artv_core.training.synthetic_clips import CLIP_SEED_OFFSET
from artv_core.training.throughput import count_flops

BUDGET = Budget()
FRAMES = 16
ONE_SHOT = "all frames at once"


def names(everything: bool) -> tuple[str, ...]:
    """The two that are compared."""
    return ("full", ONE_SHOT)


def measure(plan: TrainingPlan, kept: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Videos of 16 frames from text by either, with the same text guidance for what has no earlier frames to go by: the
    first frame of the one, all frames of the other."""
    prompts = 4 if quick else PROMPTS

    def one(name: str, seed: int) -> dict[str, Any]:
        if name == "full":
            model, seconds = trained(Variant(), name, seed, plan)
            found, videos = from_text(model, Variant(), prompts, FRAMES, seed=seed)
        else:
            videos, seconds = all_at_once(plan, seed, prompts)
            found = figures(videos, quality_clips(prompts))
        if seed == 1 and not quick:
            save_sheet(videos, f"one-shot-{name}")
        return found | {"training, CPU s": round(seconds)}

    runs = work_through(plan, asdict(plan.budget), kept.get("runs", {}), one)
    facts = {"budget": str(plan.budget), "prompts": prompts, "frames": FRAMES, "size and work": sizes(plan.budget)}
    return facts | {"runs": runs, "bars": {}}


def all_at_once(plan: TrainingPlan, seed: int, prompts: int) -> tuple[Tensor, float]:
    """Videos [N, 16, 3, H, W] of a model trained on the same clips, and the processor seconds that took."""
    config, folder = run_config(Variant(), ONE_SHOT, seed, plan.budget), clips_of(plan)
    with safe_open(folder / "latents.safetensors", "pt") as file:
        latents = file.get_tensor("latents")
    captions = [sample_clip(WORLD_SEED + CLIP_SEED_OFFSET, index).caption for index in range(len(latents))]
    spent = plan.work / config.name / "cpu-seconds.json"
    with counted_seconds(spent):
        model = train_one_shot(
            latents,
            captions,
            config=config,
            seed=seed,
            steps=plan.budget.steps,
            clips_per_step=plan.budget.batch_size // FRAMES,
            folder=plan.work / config.name,
        )
    prompted = [clip.caption for clip in quality_clips(prompts)]
    made = sample_one_shot(model.eval(), prompted, config=config.model, seed=seed, frames=FRAMES)
    return decoded(load_checkpoint(resolve_checkpoint("tiny")), made), json.loads(spent.read_text())


@torch.no_grad()
def decoded(shipped: ARTV, latents: Tensor) -> Tensor:
    return torch.stack([shipped.decode_latents(frames) for frames in latents.unbind(1)], dim=1)


def sizes(budget: Budget) -> dict[str, dict[str, float]]:
    """Parameters without the text encoder, which both have, and operations of a training step."""
    config, stage = preset("tiny"), DiffusionStage(batch_size=budget.batch_size)
    with torch.device("meta"):
        ours, theirs = ARTV(config, vae=False), build(config)
        loss = MaskedDiffusionLoss(ours, stage)
    assert ours.mask is not None
    per_sample = count_flops(loss, meta_arguments(config, tokens=True))
    return {
        "full": {
            "million parameters": millions(ours.noise, ours.mask),
            "GFLOP per step": round(per_sample * budget.batch_size / 1e9, 1),
        },
        ONE_SHOT: {
            "million parameters": millions(theirs.unet),
            "GFLOP per step": round(flops_per_step(config, budget.batch_size // FRAMES) / 1e9, 1),
        },
    }


def millions(*networks: nn.Module) -> float:
    return round(sum(part.numel() for network in networks for part in network.parameters()) / 1e6, 2)
