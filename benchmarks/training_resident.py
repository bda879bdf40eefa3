"""The part `resident` of `benchmarks/training.py`: the loop whose clips lie on the device (`diffusion.resident`) beside
the usual one. On a card samples a second, in one run; on a CPU samples for each second that cores were busy; and how
many calls of Python each sample costs."""

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from artv_core.models.artv import ARTV
from artv_core.training.config import TrainConfig, read_config
from artv_core.training.diffusion import DiffusionTraining, start_mask
from artv_core.training.drawing import DeviceDrawing
from artv_core.training.loop import Training
from artv_core.training.processes import make_accelerator
from artv_core.training.resident import ResidentTraining
from artv_core.training.start import synthetic_clips
from artv_core.training.synthetic_clips import LatentClips
from tests.counted import counted_calls

ROOT = Path(__file__).resolve().parent.parent
CLIPS = 2048
CPU_ROWS = ((64, 64), (128, 64))
"""(side, batch size) that a CPU is timed at, for information."""
CALLS = "samples drawn on the device: calls of Python for each of them"
RATIO = "GPU: samples per second of the resident loop over the usual one"
LIMITS = {CALLS: ("at most", 0), RATIO: ("at least", 5)}


def measure(folder: Path, quick: bool) -> dict[str, Any]:
    """Calls for each sample, and both loops' samples a second at `configs/small.toml`."""
    device = PartialState(cpu=not torch.cuda.is_available()).device
    calls = calls_per_sample()
    figures: dict[str, Any] = {
        "calls of Python for each sample": calls,
        "bars": {CALLS: calls["on the device"]},
    }
    if device.type == "cuda":
        rates = both(folder, 128, 512, warm=6, steps=10 if quick else 40)
        figures |= {"card": torch.cuda.get_device_name(), "128x128, batch 512": rates}
        figures["bars"][RATIO] = rates["ratio"]
    else:
        figures["GPU"] = "not measured: there was no card; on one this part times both loops in the same run"
        for side, batch in CPU_ROWS[: 1 if quick else None]:
            rates = both(folder, side, 8 if quick else batch, warm=1, steps=1 if quick else 3, clock=time.process_time)
            figures[f"CPU, {side}x{side}, batch {batch}: samples for each busy second of a core"] = rates
    return figures


def begun(side: int, batch: int) -> DiffusionTraining:
    """The stage "diffusion" of `small` on clips of noise."""
    changes = [f"overrides.size=[{side},{side}]", f"diffusion.batch_size={batch}", f"latents.clips={CLIPS}"]
    config: TrainConfig = read_config(ROOT / "configs/small.toml", changes)
    torch.manual_seed(0)
    model, cells = ARTV(config.model, vae=False), side // config.model.vae.factor
    start_mask(model, config.diffusion)
    latents = torch.randn(CLIPS, 12, config.model.vae.latent_channels, cells, cells).half()
    coverage = torch.randint(0, 256, (CLIPS, 12, cells, cells), dtype=torch.uint8)
    clips = LatentClips(latents, ("a red fox",) * CLIPS, coverage=coverage)
    return DiffusionTraining(config, model.train(), synthetic_clips(config, clips))


def both(
    folder: Path, side: int, batch: int, warm: int, steps: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Samples a second of either loop, its drawing of samples included, one after the other."""
    rates = {}
    for name, loop in (("usual", Training), ("resident", ResidentTraining)):
        stage = begun(side, batch)
        training = loop(stage, make_accelerator(stage.config, folder / name), folder / name)
        batches, started = training.batches(0), 0.0
        for step in range(warm + steps):
            if step == warm:
                wait()
                started = clock()
            training.step(step, next(batches)[1])
        wait()
        rates[name] = round(steps * batch / (clock() - started), 1)
        del training, stage, batches
        gc.collect()  # graphs hold what they compute in, and lie in circles of references
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return rates | {"ratio": round(rates["resident"] / rates["usual"], 2)}


def calls_per_sample() -> dict[str, float]:
    """How many more functions are called for each further sample of a batch."""
    stage = begun(64, 64)
    drawn = DeviceDrawing(stage.samples, torch.device("cpu"))
    numbers: dict[str, list[int]] = {"on the device": [], "on the host": []}
    for count in (4, 4, 36):  # what is done once, such as reading a caption, is done in the first round
        drawn.begin(0)
        with counted_calls() as calls:
            drawn.batch(count)
        numbers["on the device"].append(calls.number)
        with counted_calls() as calls:
            stage.samples.batch(0, range(count))
        numbers["on the host"].append(calls.number)
    return {name: (last - before) / 32 for name, (_, before, last) in numbers.items()}


def wait() -> None:
    """For the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
