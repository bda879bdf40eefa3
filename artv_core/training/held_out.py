"""The loss on clips that are never trained on, by band of time steps and by noise level of the conditions."""

import random
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .config import DiffusionStage, TrainConfig
from .samples import Batch, Clips, ClipSamples, Draw, Key


class Measured(Protocol):
    """What `held_out_losses` needs of a stage, such as `diffusion.DiffusionTraining`."""

    run: TrainConfig
    config: DiffusionStage
    clips: Clips
    samples: ClipSamples

    def arguments(self, batch: Batch, device: torch.device) -> tuple[Tensor, ...]:
        """The arguments of the stage's module."""


def held_out_losses(stage: Measured, accelerator: Accelerator, module: nn.Module) -> Mapping[str, float]:
    """Means of the loss over the same samples each time, so that readings can be compared. `held_out/steps_0-249` and
    the like are by band of time steps, with the conditions as in training; `held_out/level_0` and the like have
    references and anchor at one noise level.

    The samples are divided evenly among the processes.
    """
    config, samples, clips = stage.config, stage.samples, stage.clips.held_out
    count = -(-config.evaluate_samples // accelerator.num_processes)
    mine = range(accelerator.process_index, count * accelerator.num_processes, accelerator.num_processes)
    means = {}
    for name, fixed in _settings(stage).items():
        total = torch.zeros((), device=accelerator.device)
        for index in mine:
            key: Key = (stage.run.seed, "held-out", name, index)
            clip = int(clips[index % len(clips)])
            batch = samples.collate([samples.sample(clip, key, _drawn(stage, clip, key, fixed))])
            with torch.no_grad(), accelerator.autocast():
                loss, _ = module(*stage.arguments(batch, accelerator.device))
            total += loss.float()
        means[name] = float(accelerator.reduce(total, reduction="sum")) / (count * accelerator.num_processes)
    return means


def _settings(stage: Measured) -> dict[str, dict[str, tuple[int, int]]]:
    """What is fixed for each reading: a range of time steps, or a noise level."""
    last, bands = len(stage.samples.ratios), stage.config.evaluate_bands
    edges = [round(last * band / max(bands, 1)) for band in range(bands + 1)]
    highest = stage.config.max_noise_level
    levels = sorted({0, highest // 2, highest})
    steps = {f"held_out/steps_{low}-{high - 1}": {"timestep": (low, high)} for low, high in pairwise(edges)}
    return steps | {f"held_out/level_{level}": {"level": (level, level + 1)} for level in levels}


def _drawn(stage: Measured, clip: int, key: Key, fixed: Mapping[str, tuple[int, int]]) -> Draw:
    """A sample with all its conditions, at a time step or noise level from the given range."""
    kept: dict[str, Any] = {
        "first_share": 0.0,
        "second_share": 0.0,
        "drop_references": 0.0,
        "drop_anchor": 0.0,
        "drop_text": 0.0,
    }
    config = replace(stage.config, **kept, rollout_share=0.0, error_share=0.0, uniform_share=1.0)
    draw = stage.samples.draw(clip, key, config)
    if "timestep" in fixed:
        rng = random.Random("/".join(map(str, (*key, "timestep"))))
        draw = replace(draw, timestep=rng.randrange(*fixed["timestep"]))
    if "level" in fixed:
        draw = replace(draw, reference_level=fixed["level"][0], anchor_level=fixed["level"][0])
    return draw
