"""With and without the mask network where copying should matter: fine textures, many objects, one of them moving.

Videos go on from two true frames, so that the scene is known and what is left of it can be told exactly.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ablation_parts.measured import rounded
from ablation_parts.pictures import save_rows
from ablation_parts.runs import Budget, TrainingPlan, clips_of, in_sampling, trained, work_through
from ablation_parts.variants import VARIANTS
from artv_core.config import preset
from artv_core.method.generate import GenerateOptions
from artv_core.models.artv import ARTV
from artv_core.run.recording import Recording
from artv_core.synthetic.detailed import (
    WINDOW,
    detailed_clips,
    ground_drift,
    never_near,
    object_direction,
    object_speed,
    object_there,
    texture_kept,
)
from artv_core.synthetic.shapes import Clip, render
from artv_core.training.sheets import decoded, rollout_frames

BUDGET = Budget(steps=600, world="detailed", vae_steps=1500, start_from="tiny")
PROMPTS, FRAMES, GIVEN = 32, 64, 2


def names(everything: bool) -> tuple[str, ...]:
    """The two that are compared; with a GPU also without noise augmentation."""
    return ("full", "no mask network", *(["no noise augmentation"] if everything else []))


def measure(plan: TrainingPlan, kept: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Every run of the plan that is in `kept`, or that there is time for, and what the autoencoder alone would keep."""
    prompts, frames = (4, 32) if quick else (PROMPTS, FRAMES)
    clips = detailed_clips(prompts)

    def one(name: str, seed: int) -> dict[str, Any]:
        model, seconds = trained(VARIANTS[name], name, seed, plan)
        true = render(clips, frames, *model.config.size)
        with in_sampling(VARIANTS[name]), torch.no_grad():
            videos, masks = go_on(model, clips, true, seed, VARIANTS[name].options, plan.folder(name, seed))
        if seed == 1 and not quick:
            rows = [(clip.caption, video) for clip, video in zip(clips[:6], videos[:6], strict=True)]
            save_rows([(rows[0][0] + ", true", true[0]), *rows], f"detailed-{name}")
        through = torch.stack([model.decode_latents(model.encode_images(video)) for video in true[:8]])
        return {
            "measured": figures(videos, clips) | {"mask where the object never was near": copied(masks, clips, frames)},
            "curves": curves(videos, clips),
            "true frames through the autoencoder": figures(through, clips[:8]),
            "training, CPU s": round(seconds),
        }

    clips_of(plan)
    runs = work_through(plan, asdict(plan.budget), kept.get("runs", {}), one)
    return {"budget": str(plan.budget), "prompts": PROMPTS, "frames": FRAMES, "runs": runs, "bars": {}}


def go_on(
    model: ARTV, clips: Sequence[Clip], true: Tensor, seed: int, options: dict[str, Any], folder: Path
) -> tuple[Tensor, list[Tensor]]:
    """Videos [N, T, 3, H, W] that begin with the first true frames, and the masks [N, 1, h, w] at each frame's last
    step. What was cut off goes on from `folder`."""
    chosen = GenerateOptions(num_frames=true.shape[1], batch_size=len(clips), seed=seed, **options)
    given = [model.encode_images(true[:, index]) for index in range(GIVEN)]
    captions = [clip.caption for clip in clips]
    frames = list(rollout_frames(model, captions, chosen, given, Recording(folder)))
    shutil.rmtree(folder)
    return decoded(model, frames), [frame.mask.cpu() for frame in frames if frame.mask is not None]


def copied(masks: Sequence[Tensor], clips: Sequence[Clip], frames: int) -> float | None:
    """Mean of the masks over the cells that the object never comes near; None where there is no mask."""
    if not masks:
        return None
    never = never_near(clips, frames, *preset("tiny").size)
    cells = F.adaptive_avg_pool2d(never, masks[0].shape[-2:]) == 1
    return rounded(sum(float(mask[cells].mean()) for mask in masks) / len(masks))


def figures(videos: Tensor, clips: Sequence[Clip]) -> dict[str, float | None]:
    last = videos.shape[1] - 1
    start = last - 15
    never = never_near(clips, last + 1, *videos.shape[-2:])
    table = {
        f"ground drift at frame {last}": ground_drift(videos, clips, last),
        f"texture kept at frame {last}": texture_kept(videos, clips, last),
        "texture kept where the object never was near": texture_kept(videos, clips, last, where=never),
        "texture kept where it was": texture_kept(videos, clips, last, where=1 - never),
        f"object there at frame {last}": object_there(videos, clips, last),
        f"direction at frames {start}-{last}": object_direction(videos, clips, start, last + 1),
        f"speed at frames {start}-{last}": object_speed(videos, clips, start, last + 1),
    }
    return {name: rounded(value) for name, value in table.items()}


def curves(videos: Tensor, clips: Sequence[Clip]) -> dict[str, list[Any]]:
    at = list(range(WINDOW - 1, videos.shape[1], 4))
    never = never_near(clips, videos.shape[1], *videos.shape[-2:])
    return {
        "frame": at,
        "ground drift": [rounded(ground_drift(videos, clips, frame)) for frame in at],
        "texture kept": [rounded(texture_kept(videos, clips, frame)) for frame in at],
        "texture kept where the object never was near": [
            rounded(texture_kept(videos, clips, frame, where=never)) for frame in at
        ],
        "object there": [rounded(object_there(videos, clips, frame)) for frame in at],
    }
