"""The part `gpu` of `benchmarks/training.py`: steps per second, memory, MFU. If time is left, also which kernels take
it, and how long data is waited for.

Weights are random (no public file is needed) and latents are made up: the arithmetic is the same. The steps are those
of `train.py`. `quick` runs the same on whatever device there is, with `tiny`. FSDP needs two GPUs and is not measured.
"""

import gc
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from artv_core.models.artv import ARTV
from artv_core.training.config import TrainConfig, read_config
from artv_core.training.diffusion import DiffusionTraining
from artv_core.training.loop import Training
from artv_core.training.norms import keep_norms_in_bfloat16
from artv_core.training.passes import Passes, make_passes
from artv_core.training.samples import Clips
from artv_core.training.synthetic_clips import LatentClips, RandomOrder
from artv_core.training.throughput import peak_flops

ROOT = Path(__file__).resolve().parent.parent
WAITED = "GPU, sd21: share of the time waited for data"
LIMITS = {
    "GPU, sd21-adapter at 256x256: MFU": ("at least", 0.25),
    "GPU, sd21 at 256x256: MFU": ("at least", 0.25),
    "GPU, FSDP: largest relative difference of losses": ("at most", 1e-4),
    WAITED: ("at most", 0.05),
}
STEPS, WARM = 8, 3
LARGEST = 64


@dataclass(frozen=True)
class Row:
    """One way to train: samples in a step; whether blocks are computed again on the way back; plain is not captured;
    whether norms are float32, as autocast has them."""

    batch: int
    checkpointing: bool = False
    plain: bool = False
    float_norms: bool = False


ROWS = {
    "sd21-adapter": [Row(32), Row(64), Row(32, float_norms=True), Row(16), Row(16, plain=True), Row(64, True)],
    "sd21": [Row(32), Row(64), Row(16), Row(64, checkpointing=True), Row(16, plain=True)],
    "tiny": [Row(2), Row(1, checkpointing=True), Row(1, plain=True), Row(1, float_norms=True)],
}
"""What matters most comes first: time may run out."""


Figures = dict[str, Any]


def measure(quick: bool, seconds: float) -> Iterator[Figures]:
    """A table for each configuration within `seconds`, with one row more each time."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type != "cuda" and not quick:
        raise SystemExit("there is no GPU here; --quick tries the code on the CPU")
    end, names = time.monotonic() + seconds, ("tiny",) if quick else ("sd21-adapter", "sd21")
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    figures: Figures = {"device": card, "torch": torch.__version__, "tables": {}, "left out": [], "bars": {}}
    for name in names:
        training, left = begun(name, device), end - time.monotonic()
        yield from table(name, training, figures, end if name == names[-1] else end - left / 2)
        if name == names[-1]:
            yield from beside(name, training, figures, end)
        del training
        clear()
    yield figures


def table(name: str, training: Training, figures: Figures, end: float) -> Iterator[Figures]:
    """The configuration's rows, as long as there is time. The best MFU is its bar."""
    flops, longest, rows = training.stage_flops, 12.0, figures["tables"].setdefault(name, [])
    for chosen in ROWS[name]:
        if end - time.monotonic() < 1.2 * longest:
            figures["left out"].append(f"{name}: {chosen}")
            continue
        started = time.monotonic()
        try:
            rows.append(measured(training, chosen, flops))
        except torch.cuda.OutOfMemoryError:
            rows.append({**asdict(chosen), "out of memory": True})
        training.passes = Passes(training.module, training.accelerator.backward)
        clear()
        print(f"  {name}: {rows[-1]}", flush=True)
        if name != "tiny":
            figures["bars"][f"GPU, {name} at 256x256: MFU"] = max(row.get("mfu", 0.0) for row in rows)
        longest = max(1.0, time.monotonic() - started)
        yield figures


def measured(training: Training, chosen: Row, flops: float) -> dict[str, Any]:
    """Figures of `STEPS` steps."""
    device = training.accelerator.device
    prepared(training, chosen)
    batch = [batch_of(training, chosen.batch)]
    for step in range(WARM):
        training.step(step, batch)
    wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    for step in range(STEPS):
        training.step(step, batch)
    launched = (time.perf_counter() - started) / STEPS
    wait(device)
    seconds = (time.perf_counter() - started) / STEPS
    peak, _ = peak_flops(device, half=True)
    return {
        **asdict(chosen),
        "captured": getattr(training.passes, "graphs", 0),
        "steps_per_second": round(1 / seconds, 3),
        "milliseconds": round(1000 * seconds, 1),
        "milliseconds until the host had launched it": round(1000 * launched, 1),
        "memory_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2) if device.type == "cuda" else 0.0,
        "mfu": round(chosen.batch * flops / seconds / peak, 4),
    }


def prepared(training: Training, chosen: Row) -> None:
    """No gradients and no graphs of the rows before."""
    for network in (training.stage.model.noise, training.stage.model.mask):
        network.gradient_checkpointing = chosen.checkpointing
        keep_norms_in_bfloat16(network, not chosen.float_norms)
    plain = Passes(training.module, training.accelerator.backward)
    plain.begin()
    training.passes = plain if chosen.plain else make_passes(training.accelerator, training.module, training.config)
    clear()


def beside(name: str, training: Training, figures: Figures, end: float) -> Iterator[Figures]:
    """What is measured if there is time: the kernels of a step, and the share of the time waited for data."""
    rows = [row for row in figures["tables"][name] if row.get("mfu")]
    if not rows:
        return
    best = max(rows, key=lambda row: row["mfu"])
    chosen = Row(best["batch"], best["checkpointing"], best["plain"], best["float_norms"])
    for what, seconds, measure_it in (("kernels", 20, kernels), ("waited", 25, waited)):
        if end - time.monotonic() < seconds:
            figures["left out"].append(f"{name}: {what}")
            continue
        prepared(training, chosen)
        for step in range(WARM):
            training.step(step, [batch_of(training, chosen.batch)])
        figures[what] = measure_it(training, chosen)
        if what == "waited" and name == "sd21":
            figures["bars"][WAITED] = figures[what]
        yield figures


def kernels(training: Training, chosen: Row) -> list[str]:
    """The thirty kernels that take most of two steps: their share of the time, how many, and the name."""
    batch, cuda = [batch_of(training, chosen.batch)], training.accelerator.device.type == "cuda"
    with torch.profiler.profile() as profile:
        for step in range(2):
            training.step(step, batch)
        wait(training.accelerator.device)
    name = "self_device_time_total" if cuda else "self_cpu_time_total"
    events = [(getattr(event, name), event.count, event.key) for event in profile.key_averages()]
    total = sum(time for time, *_ in events) or 1.0
    return [f"{time / total:.1%} {count}x {key[:90]}" for time, count, key in sorted(events, reverse=True)[:30]]


def waited(training: Training, chosen: Row) -> float:
    """Share of 20 steps that the device waits for eight processes that make batches."""
    workers = 8 if training.accelerator.device.type == "cuda" else 0
    training.config = replace(training.config, batch_size=chosen.batch, micro_batch=0, steps=24, workers=workers)
    started, waiting = time.perf_counter(), 0.0
    for step, batch, seconds in training.batches(0):
        if step == 4:
            started, waiting = time.perf_counter(), 0.0
        waiting += seconds if training.idle() and step >= 4 else 0.0
        training.step(step, batch)
    wait(training.accelerator.device)
    return round(waiting / (time.perf_counter() - started), 4)


class PreparedClips(LatentClips):
    """Latents and text embeddings, as `artv prepare` keeps them."""

    def __init__(self, config: TrainConfig, count: int = 8) -> None:
        height, width = (side // config.model.vae.factor for side in config.model.size)
        latents = torch.randn(count, 12, config.model.vae.latent_channels, height, width).half()
        super().__init__(latents, [f"clip {index}" for index in range(count)])
        self.embedding = torch.randn(config.model.text.context_length, config.model.text.width)

    def context(self, clip: int) -> torch.Tensor:  # type: ignore[override]
        return self.embedding


def begun(name: str, device: torch.device) -> Training:
    """The configuration's stage as `train.py` begins it, with all samples of a step in one micro-batch."""
    config = configured(name)
    changes = {"batch_size": LARGEST, "micro_batch": 0, "mixed_precision": "bf16", "gradient_checkpointing": False}
    config = replace(config, diffusion=replace(config.diffusion, **changes))
    torch.manual_seed(0)
    with torch.device(device):
        model = ARTV(config.model)
    clips, every = PreparedClips(config), np.arange(8)
    stage = DiffusionTraining(config, model.train(), Clips(clips, RandomOrder(8, LARGEST, 0), every, every[:0]))
    return Training(stage, Accelerator(mixed_precision="bf16", cpu=device.type == "cpu"), Path())


def configured(name: str) -> TrainConfig:
    changes = [] if name == "tiny" else ["base=tiny", "data.path=clips"]
    return read_config(ROOT / f"configs/{name}.toml", changes)


def batch_of(training: Training, size: int) -> Any:
    batch = training.stage.samples.batch(0, range(size))
    return batch.pin_memory() if training.accelerator.device.type == "cuda" else batch


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def clear() -> None:
    """Memory that nothing uses goes back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
