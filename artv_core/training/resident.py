"""A training loop that keeps a GPU busy: the clips are in its memory, and a whole step is one CUDA graph.

Drawing the samples, forward and backward pass, clipping, optimiser and average form one piece of work on the same
memory each time. The host only sends the step's number and the learning rates, and launches the work. On other devices,
and if capturing fails, the same work runs without a graph. Not in the paper.
"""

import gc
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .config import TrainConfig
from .diffusion import DiffusionTraining
from .drawing import DeviceDrawing
from .flat import FlatAverage, FlatOptimizer, own_memory
from .flat_halves import HalfPasses
from .loop import Training
from .optimizers import make_optimizer, set_learning_rate
from .passes import Capture, CudaCapture, Passes, Work, steady, why_not_captured
from .samples import Clips
from .synthetic_clips import LatentClips

AHEAD = 3
"""How many steps the host may be ahead of the device: enough to keep it busy, few enough to stop soon."""

SHARE_OF_MEMORY = 0.5
"""The largest share of the device's free memory that clips may take."""

OFF = 0.5
"""The largest difference between a replayed and a usual step, as a share of how far the weights move in the step. Muon
and AdamW amplify the rounding differences of another order of summation. Wrong samples or stale numbers differ by much
more: 1 and above."""


WITHOUT_PLANS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Kinds of attention other than cuDNN's, which makes plans while it runs."""


def fitting_loop(config: TrainConfig, clips: Clips) -> type[Training]:
    """The loop for the stages "diffusion" and "distill": this one if the configuration asks for it and it is possible.
    If it is not, the run prints one line that says why."""
    if not config.diffusion.resident:
        return Training
    reason = _why_not(config, clips)
    if reason:
        PartialState().print(f"clips are not kept on the device, samples are drawn on the host: {reason}")
        return Training
    return ResidentTraining


def _why_not(config: TrainConfig, clips: Clips) -> str:
    stage, device = config.diffusion, PartialState().device
    if not isinstance(clips.source, LatentClips):
        return "only clips that the run makes itself can be kept there"
    if PartialState().distributed_type != "NO":  # of one process, too, if torchrun started it
        return "the run was started for several processes"
    if device.type not in ("cuda", "cpu"):
        return f"the device is {device.type}, not cuda"
    if stage.rollout_share:
        return "rollout_share is above 0, and the networks' own frames are made one by one"
    if stage.optimizer == "adamw8bit":
        return "adamw8bit's state cannot be stored flat; use muon or adamw"
    if stage.mixed_precision == "fp16":
        return 'mixed_precision = "fp16" looks at the gradients in each step; bf16 does not'
    if stage.ema_device == "cpu":
        return 'ema_device is "cpu", and the average is part of the step'
    if device.type == "cuda":
        wanted, free = clips.source.latents.nbytes, torch.cuda.mem_get_info(device)[0]
        if wanted > SHARE_OF_MEMORY * free:
            return f"they take {wanted / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free"
    return ""


class ResidentTraining(Training):
    """The loop with whole steps as one piece of work. `capture` captures them instead of CUDA's graphs."""

    stage: DiffusionTraining
    inner_optimizer: FlatOptimizer
    average: FlatAverage

    def _begin(self, capture: Capture | None) -> FlatOptimizer:
        stage, accelerator, config = self.stage, self.accelerator, self.config
        self.drawing = DeviceDrawing(stage.samples, accelerator.device)
        module = stage.module.to(accelerator.device).train()
        if config.mixed_precision == "bf16":
            stage.fuse(accelerator.device)
        optimizer = FlatOptimizer(make_optimizer(module, config), unused_parameters(stage))
        self.average = FlatAverage(module, config.ema_decay, optimizer)
        self.module = accelerator.prepare(module)
        if config.mixed_precision == "bf16" and not stage.config.gradient_checkpointing:
            self.passes: Passes = HalfPasses(self.module, module, accelerator.backward, optimizer)
        else:
            self.passes = Passes(self.module, accelerator.backward)
        self.number = torch.zeros((), dtype=torch.long, device=accelerator.device)
        self.launched: deque[torch.cuda.Event] = deque()
        self.whole = WholeStep(self._work, self._held, make_capture(accelerator, stage, capture), accelerator.print)
        return optimizer

    def batches(self, first: int) -> Iterator[tuple[int, list, float]]:
        """Each step, without samples: the device draws them."""
        for step in range(first, self.config.steps):
            while len(self.launched) >= AHEAD:
                self.launched.popleft().synchronize()
            yield step, [], 0.0

    def step(self, step: int, batch: list) -> None:
        """Make one step. Nothing in here waits for the device."""
        set_learning_rate(self.inner_optimizer, self.rates, step, self.config)
        self.whole.run(lambda: self._set(step), self.drawing)
        self.faults.send()
        if self.finished is not None:
            self.finished = torch.cuda.Event()
            self.finished.record()
            self.launched.append(self.finished)

    def averaged_module(self) -> nn.Module:
        """The module with averaged weights, on the CPU, in memory of its own."""
        self.average.swap()
        return own_memory(self.plain).to("cpu").eval()

    def _set(self, step: int) -> None:
        """The part of a step that runs on the host."""
        self.inner_optimizer.begin(step)
        self.number.fill_(step)
        self.drawing.begin(step)

    def _work(self) -> None:
        """The part of a step that runs on the device."""
        config, accelerator, optimizer = self.config, self.accelerator, self.inner_optimizer
        optimizer.zero_grad()
        with steady(accelerator.device), sdpa_kernel(WITHOUT_PLANS):
            for part in self.parts:
                with accelerator.autocast(), torch.no_grad():
                    arguments = self.stage.arguments(self.drawing.batch(len(part)), accelerator.device)
                self.passes.run(arguments, config.batch_size / len(part))
        norm = optimizer.clip(config.gradient_clip or float("inf"))
        self.passes.sums.add({"gradient_norm": norm})
        self.faults.mark(self.number, {"loss": self.passes.sums.totals["loss"], "gradients": norm})
        optimizer.update()
        self.average.update()

    def _held(self) -> list[Tensor]:
        """All tensors that a step changes and the next one reads, the weights first."""
        optimizer = self.inner_optimizer
        flat = [optimizer.weights, optimizer.first, optimizer.second, self.average.flat]
        bank = self.stage.module.bank
        held = [*flat, *self.passes.sums.totals.values(), *self.faults.marked]
        return held if bank is None else [*held, bank.errors, bank.written]


class WholeStep:
    """The work of a step as one graph. The first step runs as usual. The second one is captured, replayed, and run
    again as usual from the same start. The graph is kept only if both move the weights alike."""

    def __init__(
        self,
        work: Work,
        held: Callable[[], Sequence[Tensor]],
        capture: Capture | None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.work, self.held, self.say = work, held, say
        self._capture: Capture | None = capture
        self._replay: Work | None = None
        self._warm = False

    @property
    def captured(self) -> bool:
        """Whether steps are replayed from a graph."""
        return self._replay is not None

    def run(self, set_step: Callable[[], None], drawing: DeviceDrawing) -> None:
        """Make a step; `set_step` is the part that runs on the host."""
        set_step()
        if self._replay is not None:
            self._replay()
        elif self._capture is None:
            self.work()
        elif not self._warm:
            self._capture.warm_up(self.work)
            self._warm = True
        else:
            self._first_replay(self._capture, set_step, drawing)

    def _first_replay(self, capture: Capture, set_step: Callable[[], None], drawing: DeviceDrawing) -> None:
        """Capture and check the graph. Waits for the device, only this once."""
        before = [tensor.clone() for tensor in self.held()]
        reason = self._try(capture, before, set_step, drawing)
        if not reason:
            return
        self.say(f"training steps cannot be captured as CUDA graphs and run without them: {reason}")
        # Free the graph's memory first, because running the step as usual needs as much again.
        del capture
        self._capture = self._replay = None
        drawing.renew()
        gc.collect()
        if before[0].is_cuda:
            torch.cuda.empty_cache()
        _put_back(self.held(), before)
        set_step()
        self.work()

    def _try(
        self, capture: Capture, before: Sequence[Tensor], set_step: Callable[[], None], drawing: DeviceDrawing
    ) -> str:
        """Capture, replay, and run the same step as usual. Returns why the graph cannot be kept, or ""."""
        try:
            replay = capture.capture(self.work, [drawing.generator])
            set_step()
            replay()
            replayed = self.held()[0].clone()
            _put_back(self.held(), before)
            set_step()
            self.work()
            self._compare(before[0], replayed, self.held()[0])
        except RuntimeError as error:
            return (str(error).splitlines() or [type(error).__name__])[0]
        self._replay = replay
        if replayed.is_cuda:
            torch.cuda.empty_cache()  # the working memory of the step that ran as usual
        return ""

    @staticmethod
    def _compare(before: Tensor, replayed: Tensor, usual: Tensor) -> None:
        moved = float((usual - before).norm())
        off = float((replayed - usual).norm()) / max(moved, 1e-20)
        if not off < OFF:  # true for NaN as well
            raise RuntimeError(
                f"a replayed step moves the weights differently from a usual one ({off:.2g} of the way off)"
            )


def make_capture(accelerator: Accelerator, stage: DiffusionTraining, capture: Capture | None) -> Capture | None:
    """What captures whole steps, or None if they are not captured, with one line that says why."""
    reason = "" if capture is not None else why_not_captured(accelerator, stage.config)
    if not reason and capture is None and not hasattr(torch.cuda.CUDAGraph, "register_generator_state"):
        reason = "this version of PyTorch cannot draw random numbers in a graph; 2.5 and later can"
    if reason:
        accelerator.print(f"training steps are not captured as CUDA graphs: {reason}")
        return None
    return capture or CudaCapture()


def unused_parameters(stage: DiffusionTraining) -> list[nn.Parameter]:
    """Trainable weights that no loss depends on. Found on the meta device, so nothing is computed."""
    empty = stage.empty_module()
    loss, _ = empty(*stage.meta_arguments())
    loss.backward()
    names = {name for name, parameter in empty.named_parameters() if parameter.grad is None}
    return [p for name, p in stage.module.named_parameters() if p.requires_grad and name in names]


@torch.no_grad()
def _put_back(held: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    for tensor, kept in zip(held, before, strict=True):
        tensor.copy_(kept)
