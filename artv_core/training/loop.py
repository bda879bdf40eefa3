"""The one training loop, on Hugging Face Accelerate: stages bring a module and a loss, the loop does the rest.

Randomness belongs to the sample, not to the process: a stage draws sample `index` of step `step` from a stream of its
own, so a run sees the same samples on any number of processes, and on a CPU goes on after a stop as if it had never
stopped. Losses that are logged are the main process's share.
"""

import itertools
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from pytorch_optimizer import Muon
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from .config import LoopConfig


class Stage(Protocol):
    """What the loop trains. `module`'s forward takes a batch and returns (loss, scalars to log)."""

    @property
    def name(self) -> str:
        """Also the name of the stage's folder."""

    @property
    def config(self) -> LoopConfig:
        """What the loop needs to know."""

    @property
    def module(self) -> nn.Module:
        """What is trained."""

    def batch(self, step: int, indices: range) -> Any:
        """The samples `indices` of step `step`, on the CPU; depends on nothing else."""

    def sheet(self, averaged: nn.Module, step: int, folder: Path) -> Mapping[str, float]:
        """Measure the averaged module on held-out samples, draw pictures into `folder`; returns scalars to log."""


def run_stage(stage: Stage, run_dir: Path, resume: bool) -> nn.Module:
    """Train one stage to its last step and return the module with its averaged (EMA) weights.

    State goes to `run_dir/<stage>/state-<step>` every `save_minutes`, at the end, and on SIGTERM or SIGINT (then the
    process exits with code 0). A finished stage is loaded, not trained again.
    """
    config, folder = stage.config, run_dir / stage.name
    AcceleratorState._reset_state()  # the stages of a run may differ in precision; the processes stay as they are
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        log_with="tensorboard",
        project_dir=folder,
        cpu=not torch.cuda.is_available(),
    )
    if config.batch_size % accelerator.num_processes:
        raise ValueError(f"batch_size {config.batch_size} cannot be shared among {accelerator.num_processes} processes")
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
    optimizer = make_optimizer(stage.module, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, config))
    averaged = AveragedModel(stage.module, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=False)
    averaged.to(accelerator.device)
    module, optimizer = accelerator.prepare(stage.module, optimizer)
    accelerator.register_for_checkpointing(schedule, averaged)
    accelerator.init_trackers("tensorboard")

    first = _resume_step(accelerator, folder) if resume else 0
    share = config.batch_size // accelerator.num_processes
    indices = range(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    saved_at = time.monotonic()
    bar = tqdm(
        range(first, config.steps), initial=first, total=config.steps, desc=stage.name, mininterval=5,
        disable=not accelerator.is_main_process,
    )  # fmt: skip
    with _stop_on_signal() as stop:
        for step in bar:
            logs = _train_step(accelerator, module, optimizer, stage.batch(step, indices), config)
            schedule.step()
            averaged.update_parameters(accelerator.unwrap_model(module))
            if step % config.log_every == 0:
                scalars = {name: float(value) for name, value in logs.items()}
                accelerator.log(scalars | {"learning_rate": float(schedule.get_last_lr()[0])}, step=step)
                bar.set_postfix(loss=f"{scalars['loss']:.4f}", refresh=False)
            done = step + 1
            if accelerator.is_main_process and (done % config.sheet_every == 0 or done == config.steps):
                accelerator.log(dict(stage.sheet(averaged.module, done, folder)), step=done)
            due = time.monotonic() - saved_at > 60 * config.save_minutes
            stopping, due = _agreed(accelerator, stop(), due)
            if stopping or due or done == config.steps:
                _save_state(accelerator, folder, done)
                saved_at = time.monotonic()
            if stopping:
                accelerator.print(f"stopped after step {done} of {config.steps}; --resume goes on from here")
                raise SystemExit(0)
    for tracker in accelerator.trackers:
        tracker.finish()
    return averaged.module.to("cpu").eval()


def learning_rate_factor(step: int, config: LoopConfig) -> float:
    """Warm-up, constant, linear decay to 0: the factor on the learning rate at `step`."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    left = (config.steps - step) / config.decay_steps if config.decay_steps else 1.0
    return min(warm, left, 1.0)


def _agreed(accelerator: Accelerator, *flags: bool) -> list[bool]:
    """Each flag as all processes see it: set if it is set in any, for they must save and stop at the same step."""
    if accelerator.num_processes == 1:
        return list(flags)
    counts = accelerator.reduce(torch.tensor(flags, dtype=torch.float32, device=accelerator.device), reduction="sum")
    return [bool(count) for count in counts]


def _train_step(
    accelerator: Accelerator, module: nn.Module, optimizer: Any, batch: Any, config: LoopConfig
) -> dict[str, Tensor]:
    """The scalars stay tensors: reading one makes a GPU wait, and only some steps are logged."""
    optimizer.zero_grad(set_to_none=True)
    loss, logs = module(*(part.to(accelerator.device) if isinstance(part, Tensor) else part for part in batch))
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(module.parameters(), config.gradient_clip)
    optimizer.step()
    return {"loss": loss.detach(), "gradient_norm": norm, **logs}


def make_optimizer(module: nn.Module, config: LoopConfig) -> torch.optim.Optimizer:
    """AdamW for all, or Muon for the matrices and kernels inside the networks and AdamW for the rest: embeddings,
    norms, biases, and the layers at a network's ends, whose sides are no features."""
    decayed, plain = _by_decay(module)
    adamw = {"lr": config.learning_rate, "weight_decay": 0.0}
    if config.optimizer == "adamw":
        groups = [{"params": decayed, **adamw, "weight_decay": config.weight_decay}, {"params": plain, **adamw}]
        return torch.optim.AdamW(groups)
    inner = _inner_layers(module)
    hidden = [p for p in decayed if id(p) in inner]
    rest = [p for p in decayed if id(p) not in inner] + plain
    muon = {"lr": config.muon_learning_rate, "weight_decay": config.weight_decay, "use_adjusted_lr": True}
    groups = [{"params": hidden, **muon, "use_muon": True}, {"params": rest, **adamw, "use_muon": False}]
    return Muon(groups)


def _by_decay(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Norms, biases and embeddings (everything not a matrix or kernel of a layer) are not decayed."""
    embeddings = {id(p) for layer in module.modules() if isinstance(layer, nn.Embedding) for p in layer.parameters()}
    parameters = [p for p in module.parameters() if p.requires_grad]
    plain = [p for p in parameters if p.ndim < 2 or id(p) in embeddings]
    return [p for p in parameters if p.ndim >= 2 and id(p) not in embeddings], plain


def _inner_layers(module: nn.Module) -> set[int]:
    """Weights of linear and convolution layers that lead from at least 16 features to at least 16."""
    layers = [layer for layer in module.modules() if isinstance(layer, (nn.Linear, nn.Conv2d, nn.MultiheadAttention))]
    weights = [p for layer in layers for p in layer.parameters(recurse=False)]
    return {id(p) for p in weights if p.ndim >= 2 and min(p.shape[:2]) >= 16}


def _save_state(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Write beside, then rename: a state folder is either whole or not there. The one before is removed after."""
    target, partial = folder / f"state-{step:08d}", folder / "state.partial"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        for old in folder.glob("state-*"):
            if old != target:
                shutil.rmtree(old)
    accelerator.wait_for_everyone()


def _resume_step(accelerator: Accelerator, folder: Path) -> int:
    states = sorted(folder.glob("state-*"))
    if not states:
        return 0
    accelerator.load_state(str(states[-1]))
    return int(states[-1].name.removeprefix("state-"))


@contextmanager
def _stop_on_signal() -> Iterator[Any]:
    """Yields a function that says whether SIGTERM or SIGINT has come; the step under way is finished first."""
    seen = itertools.count()
    received = [False]

    def handle(*_: object) -> None:
        if next(seen) > 0:
            raise KeyboardInterrupt
        received[0] = True

    before = {sig: signal.signal(sig, handle) for sig in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: received[0]
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)
