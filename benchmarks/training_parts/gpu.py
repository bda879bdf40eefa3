"""What training takes on a GPU: steps per second, memory, MFU, a profile, waiting for data.

Weights are random (no public file is needed) and latents are made up: the arithmetic is the same. `--quick` runs the
same code on whatever device there is, with `tiny`. FSDP needs two GPUs and is not measured here.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from artv_core.models.artv import ARTV
from artv_core.training.config import TrainConfig, read_config
from artv_core.training.diffusion import DiffusionTraining
from artv_core.training.optimizers import make_optimizer
from artv_core.training.samples import Batch, Clips
from artv_core.training.synthetic_clips import LatentClips, RandomOrder
from artv_core.training.throughput import peak_flops

from .programs import ROOT

STEPS, WARM = 8, 3


def measure(folder: Path, quick: bool) -> dict[str, Any]:
    """Tables by configuration and batch size, and the best MFU of each."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type != "cuda" and not quick:
        raise SystemExit("there is no GPU here; --quick tries the code on the CPU")
    names = ("tiny",) if quick else ("sd21-adapter", "sd21")
    tables = {name: table(name, device, quick) for name in names}
    best = {name: max(row["mfu"] for row in rows) for name, rows in tables.items()}
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "tables": tables,
        "profile of the largest batch": {
            name: profiled(name, rows[-1]["batch"], device) for name, rows in tables.items()
        },
        "bars": {
            "GPU, sd21-adapter at 256x256: MFU": best.get("sd21-adapter"),
            "GPU, sd21 at 256x256: MFU": best.get("sd21"),
            "GPU, sd21: share of the time waited for data": None if quick else waited(device),
        },
    }


def table(name: str, device: torch.device, quick: bool) -> list[dict[str, float]]:
    """Batch 1, 2, 4, ... until the memory is full."""
    rows: list[dict[str, float]] = []
    batch = 1
    while batch <= (2 if quick else 256):
        try:
            rows.append(row(name, batch, device))
        except torch.cuda.OutOfMemoryError:
            break
        finally:
            if device.type == "cuda":
                torch.cuda.empty_cache()
        print(f"  {name}: {rows[-1]}", flush=True)
        batch *= 2
    return rows


def row(name: str, batch: int, device: torch.device) -> dict[str, float]:
    """Figures of `STEPS` steps at a batch size."""
    training, optimizer = begun(name, batch, device)
    samples = training.samples.batch(0, range(batch))
    for _ in range(WARM):
        learn(training, optimizer, samples, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(STEPS):
        learn(training, optimizer, samples, device)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / STEPS
    peak, _ = peak_flops(device, half=True)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return {
        "batch": batch,
        "steps_per_second": 1 / seconds,
        "memory_gib": memory,
        "mfu": batch * training.flops_per_sample() / seconds / peak,
    }


def profiled(name: str, batch: float, device: torch.device) -> list[str]:
    """The twenty operations that take most time of two steps."""
    training, optimizer = begun(name, int(batch), device)
    samples = training.samples.batch(0, range(int(batch)))
    learn(training, optimizer, samples, device)
    with torch.profiler.profile() as profile:
        for _ in range(2):
            learn(training, optimizer, samples, device)
    key = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return profile.key_averages().table(sort_by=key, row_limit=20, max_name_column_width=70).splitlines()


def waited(device: torch.device) -> float:
    """Share of 30 steps of `sd21` at micro-batch size that the GPU waits for eight processes that make batches."""
    from torch.utils.data import DataLoader

    from artv_core.training.loop import Steps

    config = configured("sd21")
    batch = config.diffusion.micro_batch
    training, optimizer = begun("sd21", batch, device)
    steps = Steps(training.samples, range(batch), batch)
    loader = iter(DataLoader(steps, sampler=range(34), batch_size=None, num_workers=8, pin_memory=True))
    for _ in range(4):
        learn(training, optimizer, next(loader)[0], device)
    torch.cuda.synchronize()
    started, waiting = time.perf_counter(), 0.0
    for _ in range(30):
        before = time.perf_counter()
        (samples,) = next(loader)
        waiting += time.perf_counter() - before
        learn(training, optimizer, samples, device)
        torch.cuda.synchronize()
    return waiting / (time.perf_counter() - started)


def begun(name: str, batch: int, device: torch.device) -> tuple[DiffusionTraining, torch.optim.Optimizer]:
    config = configured(name)
    config = replace(config, diffusion=replace(config.diffusion, batch_size=batch, mixed_precision="bf16"))
    torch.manual_seed(0)
    with torch.device(device):
        model = ARTV(config.model)
    height, width = (side // config.model.vae.factor for side in config.model.size)
    latents = torch.randn(8, 12, config.model.vae.latent_channels, height, width).half()
    clips = LatentClips(latents, [f"clip {index}" for index in range(8)])
    every = np.arange(8)
    training = DiffusionTraining(config, model.train(), Clips(clips, RandomOrder(8, batch, 0), every, every[:0]))
    training.module.train().to(device)
    return training, make_optimizer(training.module, config.diffusion)


def configured(name: str) -> TrainConfig:
    changes = [] if name == "tiny" else ["base=tiny", "data.path=clips"]
    return read_config(ROOT / f"configs/{name}.toml", changes)


def learn(training: DiffusionTraining, optimizer: torch.optim.Optimizer, samples: Batch, device: torch.device) -> None:
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        with torch.no_grad():
            arguments = training.arguments(samples, device)
        loss, _ = training.module(*arguments)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(training.module.parameters(), 1.0)
    optimizer.step()
