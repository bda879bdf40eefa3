"""How fast training is: `python benchmarks/training.py [--quick] [--parts NAME ...]`.

resident  the loop whose clips lie on the device (`diffusion.resident`) beside the usual one: samples a second
gpu       `sd21-adapter` and `sd21` on a GPU: steps per second, memory, MFU. If time is left of `--seconds`, also how
          long the GPU waits for data. Weights are random (no public file is needed) and latents are made up: the
          arithmetic is the same (with `--quick`, that of `tiny`). FSDP needs two GPUs and is not measured.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

STARTED = time.monotonic()
import numpy as np
import torch
from accelerate import Accelerator
from result_files import ROOT, Figures, Limits, card_or_quick, clear, parser_of, run_parts, run_sections

from artv_core.models.artv import ARTV
from artv_core.training.config import TrainConfig, read_config
from artv_core.training.diffusion import DiffusionTraining, start_mask
from artv_core.training.loop import Training
from artv_core.training.passes import Passes, make_passes
from artv_core.training.processes import make_accelerator
from artv_core.training.resident import ResidentTraining
from artv_core.training.samples import Clips
from artv_core.training.start import synthetic_clips
from artv_core.training.synthetic_clips import LatentClips, RandomOrder
from artv_core.training.throughput import peak_flops

RESULT = ROOT / "benchmarks/results/training.json"
RATIO = "GPU: samples per second of the resident loop over the usual one"
WAITED = "GPU, sd21: share of the time waited for data"
LIMITS: Limits = {
    "resident": {RATIO: ("at least", 5)},
    "gpu": {
        "GPU, sd21-adapter at 256x256: MFU": ("at least", 0.25),
        "GPU, sd21 at 256x256: MFU": ("at least", 0.25),
        WAITED: ("at most", 0.05),
    },
}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--seconds", type=float, default=110, help="for the part gpu, imports included (default: 110)")
    measure = {"resident": resident, "gpu": gpu}
    run_parts(parser, RESULT, LIMITS, lambda part, args: measure[part](args), asked_for=("gpu",))


# The resident loop

CLIPS = 2048


def resident(args: argparse.Namespace) -> Figures:
    """Both loops' samples a second at `configs/small.toml`."""
    card = card_or_quick(args.quick)
    side, batch, warm = (128, 512, 6) if torch.cuda.is_available() else (64, 8, 1)
    with tempfile.TemporaryDirectory() as folder:
        rates = both(Path(folder), side, batch, warm, steps=warm if args.quick else 40)
    return {"card": card, f"{side}x{side}, batch {batch}": rates, "bars": {RATIO: rates["ratio"]}}


def begun(side: int, batch: int) -> DiffusionTraining:
    """The stage "diffusion" of `small` on clips of noise."""
    changes = [f"overrides.size=[{side},{side}]", f"diffusion.batch_size={batch}", f"latents.clips={CLIPS}"]
    config = read_config(ROOT / "configs/small.toml", changes)
    torch.manual_seed(0)
    model, cells = ARTV(config.model, vae=False), side // config.model.vae.factor
    start_mask(model, config.diffusion)
    latents = torch.randn(CLIPS, 12, config.model.vae.latent_channels, cells, cells).half()
    coverage = torch.randint(0, 256, (CLIPS, 12, cells, cells), dtype=torch.uint8)
    clips = LatentClips(latents, ("a red fox",) * CLIPS, coverage=coverage)
    return DiffusionTraining(config, model.train(), synthetic_clips(config, clips))


def both(folder: Path, side: int, batch: int, warm: int, steps: int) -> dict[str, float]:
    """Samples a second of either loop, its drawing of samples included, one after the other."""
    rates = {}
    for name, loop in (("usual", Training), ("resident", ResidentTraining)):
        stage = begun(side, batch)
        training = loop(stage, make_accelerator(stage.config, folder / name), folder / name)
        batches, started = training.batches(0), 0.0
        for step in range(warm + steps):
            if step == warm:
                wait()
                started = time.perf_counter()
            training.step(step, next(batches)[1])
        wait()
        rates[name] = round(steps * batch / (time.perf_counter() - started), 1)
        del training, stage, batches
        clear()
    return rates | {"ratio": round(rates["resident"] / rates["usual"], 2)}


# Full size on a card

STEPS, WARM = 8, 3
LARGEST = 64
ROW_SECONDS = 12.0


@dataclass(frozen=True)
class Row:
    """One way to train: samples in a step; whether blocks are computed again on the way back; plain is not captured."""

    batch: int
    checkpointing: bool = False
    plain: bool = False

    def __str__(self) -> str:
        said = f"batch {self.batch}", self.checkpointing * "gradient checkpointing", self.plain * "not captured"
        return ", ".join(filter(None, said))


ROWS = {
    "sd21-adapter": [Row(64), Row(32), Row(16), Row(16, plain=True), Row(64, checkpointing=True)],
    "sd21": [Row(64), Row(32), Row(16), Row(64, checkpointing=True), Row(16, plain=True)],
    "tiny": [Row(2), Row(1, checkpointing=True), Row(1, plain=True)],
}
"""What matters most comes first: time may run out."""


def gpu(args: argparse.Namespace) -> Iterator[Figures]:
    """Measure as many rows of each configuration as time allows; each configuration gets an equal share."""
    card, device = card_or_quick(args.quick), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    end, names = STARTED + args.seconds, ("tiny",) if args.quick else ("sd21-adapter", "sd21")
    figures: Figures = {"device": card, "torch": torch.__version__}
    for place, name in enumerate(names):
        training = configured_stage(name, device)
        sections = [(f"{name}, {row}", ROW_SECONDS, partial(measured, name, training, row)) for row in ROWS[name]]
        if name != "sd21-adapter":
            sections.insert(1, (f"{name}, waiting", ROW_SECONDS, partial(waited, name, training)))
        left = (end - time.monotonic()) / (len(names) - place)
        yield from run_sections(sections, figures, time.monotonic() + left)
        del training, sections
        clear()


def measured(name: str, training: Training, chosen: Row, figures: Figures) -> Figures:
    """Figures of `STEPS` steps. The best MFU of all rows is the configuration's bar."""
    device = training.accelerator.device
    prepared(training, chosen)
    batch = training.stage.samples.batch(0, range(chosen.batch))
    batch = [batch.pin_memory() if device.type == "cuda" else batch]
    for step in range(WARM):
        training.step(step, batch)
    wait()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    for step in range(STEPS):
        training.step(step, batch)
    launched = (time.perf_counter() - started) / STEPS
    wait()
    seconds = (time.perf_counter() - started) / STEPS
    peak, _ = peak_flops(device, half=True)
    mfu, bar = round(chosen.batch * training.stage_flops / seconds / peak, 4), f"GPU, {name} at 256x256: MFU"
    return {
        **asdict(chosen),
        "captured": getattr(training.passes, "graphs", 0),
        "steps_per_second": round(1 / seconds, 3),
        "milliseconds": round(1000 * seconds, 1),
        "milliseconds until the host had launched it": round(1000 * launched, 1),
        "memory_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2) if device.type == "cuda" else 0.0,
        "mfu": mfu,
        "bars": {bar: max(mfu, figures["bars"].get(bar, 0.0))},
    }


def prepared(training: Training, chosen: Row) -> None:
    """Prepare a row: drop gradients and graphs of earlier rows."""
    for network in (training.stage.model.noise, training.stage.model.mask):
        network.gradient_checkpointing = chosen.checkpointing
    training.passes = Passes(training.module, training.accelerator.backward)
    training.passes.begin()
    clear()
    if not chosen.plain:
        training.passes = make_passes(training.accelerator, training.module, training.config)


def waited(name: str, training: Training, figures: Figures) -> Figures:
    """Share of 20 steps, made in the configuration's best way, for which the device waits for data."""
    chosen = max(ROWS[name], key=lambda row: figures.get(f"{name}, {row}", {}).get("mfu", 0.0))
    prepared(training, chosen)
    workers = 8 if training.accelerator.device.type == "cuda" else 0
    training.config = replace(training.config, batch_size=chosen.batch, micro_batch=0, steps=24, workers=workers)
    started, waiting = time.perf_counter(), 0.0
    for step, batch, seconds in training.batches(0):
        if step == 4:  # the first ones warm up
            started, waiting = time.perf_counter(), 0.0
        waiting += seconds if training.idle() and step >= 4 else 0.0
        training.step(step, batch)
    wait()
    share = round(waiting / (time.perf_counter() - started), 4)
    return {"share": share, "bars": {WAITED: share} if name == "sd21" else {}}


class PreparedClips(LatentClips):
    """Latents and text embeddings, as `artv prepare` keeps them."""

    def __init__(self, config: TrainConfig, count: int = 8) -> None:
        height, width = (side // config.model.vae.factor for side in config.model.size)
        latents = torch.randn(count, 12, config.model.vae.latent_channels, height, width).half()
        super().__init__(latents, [f"clip {index}" for index in range(count)])
        self.embedding = torch.randn(config.model.text.context_length, config.model.text.width)

    def context(self, clip: int) -> torch.Tensor:  # type: ignore[override]
        return self.embedding


def configured_stage(name: str, device: torch.device) -> Training:
    """The configuration's stage as `train.py` begins it, with all samples of a step in one micro-batch."""
    config = read_config(ROOT / f"configs/{name}.toml", [] if name == "tiny" else ["base=tiny", "data.path=clips"])
    changes = {"batch_size": LARGEST, "micro_batch": 0, "mixed_precision": "bf16", "gradient_checkpointing": False}
    config = replace(config, diffusion=replace(config.diffusion, **changes))
    torch.manual_seed(0)
    with torch.device(device):
        model = ARTV(config.model)
    clips, every = PreparedClips(config), np.arange(8)
    stage = DiffusionTraining(config, model.train(), Clips(clips, RandomOrder(8, LARGEST, 0), every, every[:0]))
    return Training(stage, Accelerator(mixed_precision="bf16", cpu=device.type == "cpu"), Path())


def wait() -> None:
    """Wait until the device has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
