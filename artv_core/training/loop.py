"""The training loop of every stage, on Hugging Face Accelerate. A stage brings samples, a module and a loss.

Randomness belongs to the sample, not to the process: sample `index` of step `step` is drawn with its own generator. So
a run sees the same samples on any number of processes, and on a CPU a resumed run gives the same result as one that
never stopped.
"""

import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .config import LoopConfig
from .ema import MovingAverage
from .numbers import FirstFaults, all_finite
from .optimizers import make_optimizer, set_learning_rate
from .passes import Capture, make_passes, micro_batches, steady
from .processes import (
    agreed,
    filled,
    host_group,
    make_accelerator,
    mean_over_processes,
    prepare,
    whole_scalar,
    whole_weights,
)
from .state import RunState, saved_steps, state_name
from .stopping import Course, OutOfTime, TimeLimit, stop_on_signal
from .throughput import Meter, peak_flops


class Samples(Protocol):
    """Makes batches on the CPU, in worker processes if the configuration says so."""

    def batch(self, step: int, indices: range) -> Any:
        """The samples `indices` of step `step`. The result depends on nothing else."""


class Stage:
    """What the loop trains. `module`'s forward takes `arguments(...)`, all of them tensors, and returns (loss, scalars
    to log). Every step must give the same scalars, and gradients for the same weights. Neither `arguments` nor the
    forward pass may wait for the device."""

    name: str
    """Also the name of the stage's folder."""
    config: LoopConfig
    module: nn.Module
    samples: Samples
    evaluate_every: int = 0
    """Steps between two evaluations; 0: never."""
    sheet_samples: float = 64.0
    """A sheet takes about as much work as this many samples of a step."""

    def arguments(self, batch: Any, device: torch.device) -> tuple[Tensor, ...]:
        """The arguments of `module`: the batch on the device, encoded if necessary."""
        return tuple(part.to(device, non_blocking=True) for part in batch)

    def fuse(self, device: torch.device) -> None:
        """Let layers run as fused kernels in bfloat16 on this device, where that applies."""

    def empty_module(self) -> nn.Module:
        """A module like `module`, on the meta device."""
        raise NotImplementedError

    def flops_per_sample(self) -> float:
        """FLOPs of a forward and backward pass. 0 means not known, and MFU is not logged."""
        return 0.0

    def evaluate(self, accelerator: Accelerator, module: nn.Module) -> Mapping[str, float]:
        """Losses on held-out samples, to log. All processes must call this together."""
        return {}

    def sheet(self, module: nn.Module, step: int, folder: Path) -> Mapping[str, float]:
        """Measure the module on held-out samples, draw pictures into `folder`, and return scalars to log. Only the main
        process calls this."""
        return {}


def run_stage(
    stage: Stage,
    run_dir: Path,
    resume: bool,
    capture: Capture | None = None,
    loop: "type[Training] | None" = None,
    limit: TimeLimit | None = None,
) -> nn.Module:
    """Train one stage to its last step and return the module with its averaged (EMA) weights.

    State goes to `run_dir/<stage>/state-<step>` every `save_minutes`, at the end, and on SIGTERM or SIGINT (the process
    then exits with code 0). A finished stage is loaded, not trained again. `capture` captures the passes instead of
    CUDA graphs. `loop` replaces the usual loop. `limit`: when to stop, as on a signal, but after drawing a sheet if
    there is time for it, and with OutOfTime.

    Raises ValueError if the loss, gradients or weights become NaN or infinite; the last good state is kept.
    """
    folder = run_dir / stage.name
    accelerator = make_accelerator(stage.config, folder)
    training = (loop or Training)(stage, accelerator, folder, capture)
    first = training.resume() if resume else 0
    training.course = Course(limit, stage.sheet_samples / stage.config.batch_size, training.state_bytes())
    try:
        with stop_on_signal() as stop:
            training.run(first, stop)
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
    return training.averaged_module()


class Training:
    """One stage while it is being trained."""

    def __init__(self, stage: Stage, accelerator: Accelerator, folder: Path, capture: Capture | None = None) -> None:
        self.stage, self.accelerator, self.folder, self.config = stage, accelerator, folder, stage.config
        self.share = self.config.batch_size // accelerator.num_processes
        start = accelerator.process_index * self.share
        self.parts = micro_batches(range(start, start + self.share), self.config.micro_batch)
        self.inner_optimizer = self._begin(capture)
        self.plain = accelerator.unwrap_model(self.module)
        self.rates = [float(group["lr"]) for group in self.inner_optimizer.param_groups]
        self.state = RunState(folder, self.plain, self.inner_optimizer, self.average, accelerator.scaler)
        self.meter = self._make_meter()
        # With a gradient scaler, skipping steps with infinite gradients is normal.
        watched = ["loss"] if accelerator.scaler is not None else ["loss", "gradients"]
        self.faults = FirstFaults(watched, accelerator.device)
        self.finished = torch.cuda.Event() if accelerator.device.type == "cuda" else None
        self.group = host_group(accelerator)
        self.course = Course(None, 0.0)

    def _begin(self, capture: Capture | None) -> torch.optim.Optimizer:
        """Prepare the module, its passes and its average. Returns the optimiser without Accelerate's wrapper."""
        stage, accelerator = self.stage, self.accelerator
        fused = accelerator.device.type == "cuda" and accelerator.distributed_type != "FSDP"
        if fused:
            stage.module.to(accelerator.device)  # the fused optimiser needs its weights there from the start
            if accelerator.mixed_precision == "bf16":
                stage.fuse(accelerator.device)
        optimizer = make_optimizer(stage.module.train(), stage.config, fused)
        self.module, self.optimizer = prepare(accelerator, stage.module, optimizer, stage.config)
        self.passes = make_passes(accelerator, self.module, stage.config, capture)
        plain = accelerator.unwrap_model(self.module)
        self.average = MovingAverage(plain, self.config.ema_decay, self.config.ema_device)
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def resume(self) -> int:
        """Load the last state and return its step; 0 if there is none. Raises ValueError if the state cannot be
        used."""
        step = self.state.load()
        if step and not all_finite(self.state.numbers(), self.group):
            raise ValueError(
                f"{self.folder / state_name(step)} contains weights that are not numbers; remove that folder"
            )
        return step

    def run(self, first: int, stop: Any) -> None:
        """Train from step `first` to the last one. Raises SystemExit(0) if `stop()` is true, OutOfTime if the time is
        over, and ValueError if the loss, gradients or weights become NaN or infinite."""
        bar = tqdm(
            self.batches(first), initial=first, total=self.config.steps, desc=self.stage.name, mininterval=5,
            disable=not self.accelerator.is_main_process,
        )  # fmt: skip
        with closing(bar):
            self._run(bar, first, stop)

    def _run(self, bar: tqdm, first: int, stop: Any) -> None:
        config = self.config
        saved_at, logged = time.monotonic(), first
        for step, batch, waited in bar:
            done = step + 1
            starved = waited if self.idle() else 0.0
            self.step(step, batch)
            self.meter.add(config.batch_size, starved)
            self.course.step_done()
            if step % config.log_every == 0:
                bar.set_postfix(self._log(step, done - logged), refresh=False)
                logged = done
            due = time.monotonic() - saved_at > 60 * config.save_minutes
            seen = self.faults.any_seen()
            wanted = any(self._to_look_at(done))
            over, hurried = self.course.is_over(), wanted and self.course.is_hurried()
            stopping, late, hurried, due, faulty = agreed(self.group, stop(), over, hurried, due, seen)
            saving = stopping or late or due or done == config.steps
            leaving = late and not stopping and done < config.steps
            looking = wanted and not (leaving or hurried)
            if faulty or saving or looking:
                with self._beside():
                    self.check(done)
            if saving:
                with self._beside("state"):
                    self.state.save(done)
                saved_at = time.monotonic()
            if looking:
                self._look(done, *self._to_look_at(done))
            if leaving:
                self._leave(done)
            if stopping:
                self.accelerator.print(f"stopped after step {done} of {config.steps}; --resume continues from here")
                raise SystemExit(0)

    def _leave(self, done: int) -> NoReturn:
        """Stop because the time is over. All processes must call this together."""
        (room,) = agreed(self.group, self.course.has_room_for_sheet())
        if room:
            self._look(done, evaluating=False, drawing=True)
        self.accelerator.print(
            f"{self.stage.name}: time is up, stopped after step {done} of {self.config.steps}; "
            "the same command with --resume continues from here"
        )
        raise OutOfTime(done, self.averaged_module())

    def state_bytes(self) -> int:
        """About the size of a state in bytes: weights, average, and two moments of each weight."""
        weights = sum(weight.numel() * weight.element_size() for weight in self.plain.parameters())
        return 4 * weights

    def check(self, done: int) -> None:
        """Raises ValueError if the loss or gradients of one of the first `done` steps were NaN or infinite, or if the
        weights or other tensors of the state are now. All processes must call this together; it waits for the
        device."""
        first = self.faults.first(self.group)
        if first is None and all_finite(self.state.numbers(), self.group):
            return
        what = f"the weights are no longer numbers after step {done}"
        if first is not None:
            name, step = first
            lost = "is not a number" if name == "loss" else "are not numbers"
            what = f"the {name} of step {step + 1} {lost} (NaN or infinite)"
        steps = saved_steps(self.folder)
        kept = f"the last good state is {self.folder / state_name(steps[-1])}" if steps else "no state was saved yet"
        advice = (
            "lower learning_rate, or set gradient_clip, and continue with --resume" if steps else "lower learning_rate"
        )
        raise ValueError(f"{self.stage.name} stopped: {what}; {kept}; {advice}")

    def averaged_module(self) -> nn.Module:
        """The module with averaged weights, on the CPU, for the next stage. Sharded weights are gathered by the main
        process; the other processes get an empty module."""
        self.average.swap()
        whole = whole_weights(self.plain)
        return (self.plain.to("cpu") if whole is None else filled(self.stage.empty_module(), whole)).eval()

    def batches(self, first: int) -> Iterator[tuple[int, list, float]]:
        """Each step with its micro-batches, and the seconds spent waiting for them. Raises what making a batch
        raised."""
        accelerator, config = self.accelerator, self.config
        loader: Iterable = DataLoader(
            Steps(self.stage.samples, self.parts),
            sampler=range(first, config.steps),
            batch_size=None,
            num_workers=config.workers,
            worker_init_fn=_ignore_ctrl_c,
            prefetch_factor=2 if config.workers else None,
            pin_memory=accelerator.device.type == "cuda",
        )
        started = time.perf_counter()
        for step, batch in enumerate(loader, start=first):
            if isinstance(batch, Exception):
                raise batch
            yield step, batch, time.perf_counter() - started
            started = time.perf_counter()

    def step(self, step: int, batch: list) -> None:
        """Train on a step's micro-batches. Nothing in here waits for the device: scalars are summed there, and `_log`
        reads them."""
        accelerator, module = self.accelerator, self.module
        set_learning_rate(self.inner_optimizer, self.rates, step, self.config)
        self.passes.begin()
        for part, samples in zip(batch, self.parts, strict=True):
            with accelerator.autocast(), torch.no_grad():
                arguments = self.stage.arguments(part, accelerator.device)
            last = samples is self.parts[-1]
            with steady(accelerator.device), nullcontext() if last else accelerator.no_sync(module):
                self.passes.run(arguments, self.share / len(samples))
        norm = accelerator.clip_grad_norm_(module.parameters(), self.config.gradient_clip or float("inf"))
        norm = whole_scalar(norm)
        self.passes.sums.add({"gradient_norm": norm})
        self.faults.note(step, {"loss": self.passes.sums.totals["loss"], "gradients": norm})
        self.optimizer.step()
        self.average.update()
        if self.finished is not None:
            self.finished.record()

    def idle(self) -> bool:
        """Whether the device has finished all its work. The host launches several steps ahead, so while it waits for a
        batch the device is usually still busy."""
        return self.finished is None or self.finished.query()

    def _log(self, step: int, steps: int) -> dict[str, str]:
        """Log the means of the scalars over all processes and the last `steps` steps. Returns what the progress bar
        shows."""
        scalars = mean_over_processes(self.accelerator, self.passes.sums.take(steps)) | self.meter.read()
        scalars["learning_rate"] = float(self.inner_optimizer.param_groups[0]["lr"])
        if not self.stage_flops:
            del scalars["mfu"]
        self.accelerator.log(scalars, step=step)
        shown = {"loss": f"{scalars['loss']:.4f}", "samples/s": f"{scalars['samples_per_second']:.3g}"}
        return shown | ({"MFU": f"{scalars['mfu']:.1%}"} if "mfu" in scalars else {})

    def _look(self, done: int, evaluating: bool, drawing: bool) -> None:
        """Measure held-out losses and draw sheets after `done` steps."""
        with self._beside("sheet" if drawing else ""), self.average.applied():
            if evaluating:
                self.accelerator.log(dict(self.stage.evaluate(self.accelerator, self.module)), step=done)
            whole = whole_weights(self.plain) if drawing else None
            if drawing and self.accelerator.is_main_process:
                module = self.plain if whole is None else filled(self.stage.empty_module(), whole)
                with self.accelerator.autocast():
                    scalars = self.stage.sheet(module.to(self.accelerator.device).eval(), done, self.folder)
                self.accelerator.log(dict(scalars), step=done)
        self.plain.train()

    def _to_look_at(self, done: int) -> tuple[bool, bool]:
        """Whether held-out losses are due after `done` steps, and whether a sheet is."""
        every, last = self.stage.evaluate_every, done == self.config.steps
        return bool(every) and (done % every == 0 or last), done % self.config.sheet_every == 0 or last

    @contextmanager
    def _beside(self, what: str = "") -> Iterator[None]:
        """Time spent in this block does not count as training time."""
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self.meter.leave_out(seconds)
        self.course.note(what, seconds)

    def _make_meter(self) -> Meter:
        accelerator, self.stage_flops = self.accelerator, self.stage.flops_per_sample()
        if not self.stage_flops:
            return Meter(0.0, 1.0)
        peak, source = peak_flops(accelerator.device, half=accelerator.mixed_precision != "no")
        accelerator.print(
            f"{self.stage.name}: {self.stage_flops / 1e9:.3g} GFLOP per sample; MFU is the share of {source}"
            + f" on each of {accelerator.num_processes} devices" * (accelerator.num_processes > 1)
        )
        return Meter(self.stage_flops, peak * accelerator.num_processes)


class Steps(Dataset):
    """What the loader's workers make: this process's share of each step, in micro-batches."""

    def __init__(self, samples: Samples, parts: Sequence[range]) -> None:
        self.samples, self.parts = samples, parts

    def __getitem__(self, step: int) -> list | Exception:
        """An error of a user is returned, because the loader adds a worker's traceback to one that is raised."""
        try:
            return [self.samples.batch(step, part) for part in self.parts]
        except (ValueError, OSError) as error:
            return error


def _ignore_ctrl_c(_: int) -> None:
    """In a worker: Ctrl+C reaches all processes of a terminal, and the main one needs its workers to finish the
    step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
