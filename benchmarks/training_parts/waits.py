"""How often a training step waits for its device, counted on a CPU (`tests/device_waits.py`) with `tiny`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from artv_core.models.artv import ARTV
from artv_core.synthetic.shapes import sample_clip
from artv_core.training.config import TrainConfig, read_config
from artv_core.training.diffusion import DiffusionTraining, start_mask
from artv_core.training.loop import Stage, Training
from artv_core.training.processes import make_accelerator
from artv_core.training.samples import Batch, Clips
from artv_core.training.synthetic_clips import LatentClips, RandomOrder
from artv_core.training.vae import VAETraining
from tests.device_waits import DeviceWaits

from .programs import ROOT

STEPS = 4


class ImageClips(LatentClips):
    """Images, so that steps encode them as they do those of videos that nobody prepared."""

    holds_latents = False


def measure(folder: Path, quick: bool) -> dict[str, Any]:
    """Waits in steps of both stages, of the networks with each optimiser."""
    waits: dict[str, list[str]] = {}
    for optimizer in ("adamw", "muon"):
        config = read_config(ROOT / "configs/tiny.toml", [f"diffusion.optimizer={optimizer}", "diffusion.batch_size=4"])
        waits[f"networks, {optimizer}"] = waits_of(networks(config), folder)
    waits["autoencoder"] = waits_of(VAETraining(read_config(ROOT / "configs/tiny.toml", ["vae.batch_size=2"])), folder)
    return {
        "steps of each": STEPS,
        "waits": waits,
        "bars": {"training: device waits inside a training step": sum(map(len, waits.values()))},
    }


def networks(config: TrainConfig) -> DiffusionTraining:
    torch.manual_seed(0)
    model = ARTV(config.model)
    start_mask(model, config.diffusion)
    captions, every = [sample_clip(0, index).caption for index in range(4)], np.arange(4)
    clips = ImageClips(torch.rand(4, 12, 3, 64, 64), captions, factor=1)
    order = RandomOrder(4, config.diffusion.batch_size, config.seed)
    return DiffusionTraining(config, model.train(), Clips(clips, order, every, every[:0]))


def waits_of(stage: Stage, folder: Path) -> list[str]:
    """The lines that waited in `STEPS` steps on pinned batches, as a loader hands them on for a GPU."""
    training = Training(stage, make_accelerator(stage.config, folder / "run"), folder / "run")
    model = stage.model if isinstance(stage, DiffusionTraining) else stage.module
    waits = DeviceWaits(model, training.module, training.average.averages)
    for step in range(STEPS):
        batch = stage.samples.batch(step, range(stage.config.batch_size))
        with waits:
            training.step(step, [pinned(batch)])
    return waits.where


def pinned(batch: Batch | tuple[Tensor, ...]) -> Batch | tuple[Tensor, ...]:
    return batch.pin_memory() if isinstance(batch, Batch) else tuple(part.pin_memory() for part in batch)
