"""How many samples a second are read, from encoded videos and from prepared shards, and how many a step learns from."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from artv_core.training.config import read_config
from artv_core.training.diffusion import DiffusionTraining
from artv_core.training.loop import Steps
from artv_core.training.start import open_clips, starting_model

from .processes import CONFIG
from .programs import ROOT, moving_clips, write_clips

BATCH = 32


def measure(folder: Path, quick: bool) -> dict[str, Any]:
    """Loading alone, with no worker process, and steps alone, in turns in one process of one thread."""
    torch.set_num_threads(1)
    write_clips(folder / "clips", moving_clips(8 if quick else 48))
    prepare = [sys.executable, "-m", "artv_core.cli", "prepare", str(folder / "clips"), str(folder / "prepared")]
    subprocess.run([*prepare, "--checkpoint", "tiny", "--engine", "plain"], cwd=ROOT, check=True, capture_output=True)
    rates: dict[str, dict[str, float]] = {}
    for name in ("clips", "prepared"):
        config = folder / f"{name}.toml"
        config.write_text(CONFIG.format(name=name, clips=folder / name, steps=1000))
        rates[name] = rate(config, folder / name, rounds=1 if quick else 6)
    return {
        "samples per second, one thread": rates,
        "bars": {
            f"loading: samples per second over those of a training step of tiny, {label}": rates[name]["loaded"]
            / rates[name]["learnt"]
            for name, label in (("clips", "encoded videos"), ("prepared", "prepared clips"))
        },
    }


def rate(config: Path, folder: Path, rounds: int) -> dict[str, float]:
    """Batches are read, then learnt from, a few at a time, so that both see the same machine."""
    run = read_config(config, [f"diffusion.batch_size={BATCH}", "diffusion.mixed_precision=bf16"])
    model = starting_model(run)
    training = DiffusionTraining(run, model, open_clips(run, model, folder.with_suffix(".run")))
    optimizer = torch.optim.AdamW(training.module.parameters())
    steps = Steps(training.samples, range(BATCH), BATCH)
    seconds = {"loaded": 0.0, "learnt": 0.0}
    for round_ in range(rounds + 1):
        started = time.process_time()
        batches = list(DataLoader(steps, sampler=range(3 * round_, 3 * round_ + 3), batch_size=None))
        loaded = time.process_time()
        for (batch,) in batches:
            learn(training, optimizer, batch)
        if round_:  # the first one warms up
            seconds["loaded"] += loaded - started
            seconds["learnt"] += time.process_time() - loaded
    return {name: 3 * rounds * BATCH / value for name, value in seconds.items()}


def learn(training: DiffusionTraining, optimizer: torch.optim.Optimizer, batch: Any) -> None:
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            arguments = training.arguments(batch, torch.device("cpu"))
        loss, _ = training.module(*arguments)
    loss.backward()
    optimizer.step()
