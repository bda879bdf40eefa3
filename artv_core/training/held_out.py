"""The loss on clips that are never trained on, by band of time steps and by noise level of the conditions."""

import random
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..data.order import BrokenCount, NoSubstitute
from .config import DiffusionStage, TrainConfig
from .samples import Batch, Clips, ClipSamples, Draw, Key


class Measured(Protocol):
    """What `held_out_losses` needs of a stage, such as `diffusion.DiffusionTraining`."""

    run: TrainConfig
    config: DiffusionStage
    clips: Clips
    samples: ClipSamples
    broken: BrokenCount

    def arguments(self, batch: Batch, device: torch.device) -> tuple[Tensor, ...]:
        """The arguments of the stage's module."""


def held_out_losses(stage: Measured, accelerator: Accelerator, module: nn.Module) -> Mapping[str, float]:
    """Means of the loss over the same samples each time, so that readings can be compared. `held_out/steps_0-249` and
    the like are by band of time steps, with the conditions as in training; `held_out/level_0` and the like have
    references and anchor at one noise level.

    The samples are divided evenly among the processes. If one of them cannot read a clip, the samples that the others
    measure at the same time are left out, too, because all must run the module equally often.
    """
    processes, device = accelerator.num_processes, accelerator.device
    count = -(-stage.config.evaluate_samples // processes)
    mine = range(accelerator.process_index, count * processes, processes)
    means = {}
    for name, fixed in _settings(stage).items():
        total, measured = torch.zeros((), device=device), 0
        for index in mine:
            batch = _read(stage, (stage.run.seed, "held-out", name, index), fixed)
            if not _all_have(accelerator, batch) or batch is None:
                continue
            with torch.no_grad(), accelerator.autocast():
                loss, _ = module(*stage.arguments(batch, device))
            total, measured = total + loss.float(), measured + processes
        if measured:
            means[name] = float(accelerator.reduce(total, reduction="sum")) / measured
    return means


def _all_have(accelerator: Accelerator, batch: Batch | None) -> bool:
    """Whether every process has a batch."""
    if accelerator.num_processes == 1:  # asking the device would mean waiting for it
        return batch is not None
    count = accelerator.reduce(torch.tensor(int(batch is not None), device=accelerator.device), reduction="sum")
    return int(count) == accelerator.num_processes


def _read(stage: Measured, key: Key, fixed: Mapping[str, tuple[int, int]]) -> Batch | None:
    """One sample; None if its clip cannot be read, nor another held-out clip of its size, which is said once."""
    clips = stage.clips.held_out
    clip = int(clips[int(key[-1]) % len(clips)])
    try:
        return stage.samples.collate([stage.samples.sample(clip, key, _drawn(stage, clip, key, fixed))])
    except NoSubstitute as error:
        for line in stage.broken.add(error.broken):
            print(f"\nleft out of the held-out losses: {line}")
        return None


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
