"""A run that is killed at random moments and resumed, against one that never was."""

import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from .processes import CONFIG
from .programs import logged, moving_clips, train, train_and_kill, write_clips


def measure(folder: Path, quick: bool) -> dict[str, Any]:
    """Numbers of trials whose losses and weights differ in any bit from the uninterrupted run's."""
    trials, steps, rng = (1 if quick else 4), (8 if quick else 30), random.Random(5)
    write_clips(folder / "clips", moving_clips(16))
    text = CONFIG.replace("log_every", "save_minutes = 0.03\nema_decay = 0.9\nlog_every")

    def config(name: str) -> Path:
        path = folder / f"{name}.toml"
        path.write_text(text.format(name=name, clips=folder / "clips", steps=steps))
        return path

    train(config("whole"), folder, "--stages", "diffusion")
    whole, whole_losses = load_file(folder / "whole" / "diffusion.safetensors"), logged(folder, "whole")
    kills, other_weights, other_losses = 0, 0, 0
    for trial in range(trials):
        name = f"killed{trial}"
        for seconds in (rng.uniform(1, 8), rng.uniform(1, 8)):
            kills += train_and_kill(config(name), folder, seconds, "--stages", "diffusion", "--resume")
        train(config(name), folder, "--stages", "diffusion", "--resume")
        resumed = load_file(folder / name / "diffusion.safetensors")
        other_weights += not all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())
        other_losses += logged(folder, name) != whole_losses
    return {
        "trials": trials,
        "bars": {
            "killed and resumed: SIGKILLs that hit": kills,
            "killed and resumed: runs with other weights": other_weights,
            "killed and resumed: runs with other losses": other_losses,
        },
    }
