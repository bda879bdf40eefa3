"""A training loop that fills a card: the clips lie in its memory, and a whole step is one CUDA graph.

Drawing the samples, forward and backward pass, clipping, optimiser and average are one piece of work on the same memory
each time. The host only says which step it is and how fast to learn, and launches the work. On other devices, and where
capturing fails, the same work is done as usual. Not in the paper.
"""

import gc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..models.fused import fuse_for_training
from .config import TrainConfig
from .diffusion import DiffusionTraining, meta_arguments
from .drawing import DeviceDrawing
from .flat import FlatAverage, FlatOptimizer, own_memory
from .halves import HalfPasses
from .loop import Training
from .optimizers import make_optimizer, set_learning_rate
from .passes import Capture, CudaCapture, Passes, Work, why_not_captured
from .samples import Clips
from .synthetic_clips import LatentClips

AHEAD = 3
"""Steps that the host may be ahead of the device: enough to keep it busy, few enough to stop soon."""

SHARE_OF_MEMORY = 0.5
"""Of the device's free memory, what clips may take."""

OFF = 0.5
"""Of the way that weights go in a step, how far a replayed one may end from a usual one. Muon and AdamW magnify what
little sums in another order change; other samples or old numbers lead elsewhere altogether, 1 and more."""


def fitting_loop(config: TrainConfig, clips: Clips) -> type[Training]:
    """The loop for the stage "diffusion": this one where the configuration asks for it and it can be, with one line
    where it cannot."""
    if not config.diffusion.resident:
        return Training
    reason = _why_not(config, clips)
    if reason:
        PartialState().print(f"diffusion: clips do not lie on the device, samples are drawn on the host: {reason}")
        return Training
    return ResidentTraining


def _why_not(config: TrainConfig, clips: Clips) -> str:
    stage, device = config.diffusion, PartialState().device
    if not isinstance(clips.source, LatentClips):
        return "that needs clips that the run has made itself"
    if PartialState().num_processes > 1:
        return "several processes train together"
    if device.type not in ("cuda", "cpu"):
        return f"the device is {device.type}, not cuda"
    if stage.rollout_share:
        return "rollout_share is above 0, and the networks' own frames are made one by one"
    if stage.optimizer == "adamw8bit":
        return "adamw8bit keeps no state that can lie flat; muon and adamw do"
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
    """The loop with steps of one piece. `capture`: what captures them, in the place of CUDA's graphs."""

    stage: DiffusionTraining
    inner_optimizer: FlatOptimizer
    average: FlatAverage

    def _begin(self, capture: Capture | None) -> FlatOptimizer:
        stage, accelerator, config = self.stage, self.accelerator, self.config
        self.drawing = DeviceDrawing(stage.samples, accelerator.device)
        module = stage.module.to(accelerator.device).train()
        for network in (module.noise, module.mask):
            if network is not None and config.mixed_precision == "bf16":
                fuse_for_training(network, accelerator.device)
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
        """Each step, without samples; the device draws them."""
        for step in range(first, self.config.steps):
            while len(self.launched) >= AHEAD:
                self.launched.popleft().synchronize()
            yield step, [], 0.0

    def step(self, step: int, batch: list) -> None:
        """One step. Nothing in here waits for the device."""
        set_learning_rate(self.inner_optimizer, self.rates, step, self.config)
        self.whole.run(lambda: self._set(step), self.drawing)
        self.faults.send()
        if self.finished is not None:
            self.finished = torch.cuda.Event()
            self.finished.record()
            self.launched.append(self.finished)

    def averaged_module(self) -> nn.Module:
        """As the usual loop's, with weights in memory of their own."""
        self.average.swap()
        return own_memory(self.plain).to("cpu").eval()

    def _set(self, step: int) -> None:
        """The host's part of a step."""
        self.inner_optimizer.begin(step)
        self.number.fill_(step)
        self.drawing.begin(step)

    def _work(self) -> None:
        """The device's part."""
        config, accelerator, optimizer = self.config, self.accelerator, self.inner_optimizer
        size = config.micro_batch or config.batch_size
        parts = [min(size, config.batch_size - start) for start in range(0, config.batch_size, size)]
        optimizer.zero_grad()
        with _steady(accelerator.device):
            for part in parts:
                with accelerator.autocast(), torch.no_grad():
                    arguments = self.stage.arguments(self.drawing.batch(part), accelerator.device)
                self.passes.run(arguments, len(parts))
        norm = optimizer.clip(config.gradient_clip or float("inf"))
        self.passes.sums.add({"gradient_norm": norm})
        self.faults.mark(self.number, {"loss": self.passes.sums.totals["loss"], "gradients": norm})
        optimizer.update()
        self.average.update()

    def _held(self) -> list[Tensor]:
        """All that a step changes and the next one reads: weights first."""
        optimizer = self.inner_optimizer
        flat = [optimizer.weights, optimizer.first, optimizer.second, self.average.flat]
        return [*flat, *self.passes.sums.totals.values(), *self.faults.marked]


class WholeStep:
    """A step's work as one graph. The first step is done as usual, the second one is captured, and once replayed it is
    done again as usual from the same start: only if weights come out alike is the graph kept."""

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
        """Whether steps are replayed."""
        return self._replay is not None

    def run(self, set_step: Callable[[], None], drawing: DeviceDrawing) -> None:
        """A step; `set_step` is the host's part of it."""
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
        """Waits for the device, this once."""
        before = [tensor.clone() for tensor in self.held()]
        reason = self._try(capture, before, set_step, drawing)
        if not reason:
            return
        self.say(f"training steps cannot be captured as CUDA graphs, and go on without: {reason}")
        # The graph's memory must be free before the step is done as usual, which takes as much again.
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
        """Capture, replay, and do the same step as usual; why the graph cannot be kept, or ""."""
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
            torch.cuda.empty_cache()  # what the usual way computed in
        return ""

    @staticmethod
    def _compare(before: Tensor, replayed: Tensor, usual: Tensor) -> None:
        moved = float((usual - before).norm())
        off = float((replayed - usual).norm()) / max(moved, 1e-20)
        if not off < OFF:  # a NaN is not
            raise RuntimeError(
                f"a replayed step moves the weights elsewhere than a usual one ({off:.2g} of the way off)"
            )


def make_capture(accelerator: Accelerator, stage: DiffusionTraining, capture: Capture | None) -> Capture | None:
    """What captures whole steps; None, with one line, where they are not captured."""
    reason = "" if capture is not None else why_not_captured(accelerator, stage.config)
    if not reason and capture is None and not hasattr(torch.cuda.CUDAGraph, "register_generator_state"):
        reason = "this version of PyTorch cannot draw in a graph; 2.5 and later can"
    if reason:
        accelerator.print(f"training steps are not captured as CUDA graphs: {reason}")
        return None
    return capture or CudaCapture()


def unused_parameters(stage: DiffusionTraining) -> list[nn.Parameter]:
    """Weights to be trained that no loss depends on, such as a text encoder's last block where the one before it is
    read. Found on the meta device: nothing is computed."""
    empty = stage.empty_module()
    loss, _ = empty(*meta_arguments(stage.model.config, "text" in stage.config.train))
    loss.backward()
    names = {name for name, parameter in empty.named_parameters() if parameter.grad is None}
    return [p for name, p in stage.module.named_parameters() if p.requires_grad and name in names]


@contextmanager
def _steady(device: torch.device) -> Iterator[None]:
    """On CUDA: convolutions choose their fastest algorithm in the first step, for shapes never change; and attention
    is not cuDNN's, which makes plans as it runs."""
    if device.type != "cuda":
        yield
        return
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            yield
    finally:
        torch.backends.cudnn.benchmark = before


@torch.no_grad()
def _put_back(held: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    for tensor, kept in zip(held, before, strict=True):
        tensor.copy_(kept)
