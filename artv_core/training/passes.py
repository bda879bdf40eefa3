"""Forward and backward pass of a step's micro-batches, on a CUDA device as CUDA graphs.

A fast GPU runs the thousands of kernels of a training step in less time than the host needs to launch them one by one.
A graph contains them all and is launched at once. It reads the same memory each time, so a batch is copied to where the
graph expects it. Gradients also keep their memory: they are set to zero at the start of a step, not dropped.
"""

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .config import LoopConfig
from .halves import HalfCopies

Work = Callable[[], None]


class Capture(Protocol):
    """Makes graphs of work that runs on a device."""

    def warm_up(self, work: Work) -> None:
        """Run `work` once, before it is captured."""

    def capture(self, work: Work, generators: Sequence[torch.Generator] = ()) -> Work:
        """A function that runs `work` again on the same memory each time it is called. Capturing itself has no effect.
        Numbers drawn from `generators` follow the generators' state at the time of the call. Raises RuntimeError if the
        work cannot be captured; the generators cannot be used after that."""


class CudaCapture:
    """Captures CUDA graphs. They share their working memory, because only one runs at a time and leaves nothing
    there."""

    def __init__(self) -> None:
        self.stream, self.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def warm_up(self, work: Work) -> None:
        """Run it on a separate stream, as PyTorch requires before a capture."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            work()
        torch.cuda.current_stream().wait_stream(self.stream)

    def capture(self, work: Work, generators: Sequence[torch.Generator] = ()) -> Work:
        """Capture so that other threads, such as the one that pins batches, may use the device meanwhile."""
        graph, usual = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        for generator in generators:
            graph.register_generator_state(generator)
        gc.collect()  # frees memory now, before the graph reserves its own
        torch.cuda.empty_cache()
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                work()
        except RuntimeError:
            torch.cuda.set_stream(usual)  # some versions of PyTorch stay on the capture stream
            if generators:
                _free_default_generator()
            raise
        return graph.replay


def _free_default_generator() -> None:
    """After a failed capture, PyTorch may still treat the default generator as being captured: give it a new state."""
    with contextlib.suppress(RuntimeError, AttributeError):  # versions that do not need this
        default = torch.cuda.default_generators[torch.cuda.current_device()]
        default.graphsafe_set_state(torch.Generator(default.device).graphsafe_get_state())


class Sums:
    """Scalars of many steps, summed on the device and read together, because each reading makes the host wait.

    A sum is NaN or infinite as soon as one of its parts was.
    """

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, scalars: Mapping[str, Tensor], parts: float = 1) -> None:
        """Add each scalar [], divided by `parts`."""
        values = [value.detach().float() for value in scalars.values()]
        for name, value in zip(scalars, values, strict=True):
            if name not in self.totals:
                self.totals[name] = torch.zeros_like(value)
        torch._foreach_add_([self.totals[name] for name in scalars], values, alpha=1 / parts)

    def take(self, steps: int) -> dict[str, Tensor]:
        """Means over `steps` steps, still on the device. The sums start again at 0."""
        means = {name: total / steps for name, total in self.totals.items()}
        for total in self.totals.values():
            total.zero_()
        return means


def micro_batches(samples: range, size: int) -> list[range]:
    """`samples` in parts of `size` each, the last of which may be smaller; 0: all in one."""
    size = size or len(samples)
    return [samples[start : start + size] for start in range(0, len(samples), size)]


class Passes:
    """Runs micro-batches one after another. Their losses and gradients add up until the next step begins.

    `backward` takes a loss. Scalars go to `sums`: the loss as "loss", and those that the module returns. With `copies`,
    layers read these instead of casting their weights one by one.
    """

    def __init__(self, module: nn.Module, backward: Callable[[Tensor], None], copies: HalfCopies | None = None) -> None:
        self.module, self.backward, self.copies, self.sums = module, backward, copies, Sums()
        self.trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.first = True  # of the step

    def begin(self) -> None:
        """Begin a step: drop the gradients."""
        self.first = True
        for parameter in self.trained:
            parameter.grad = None

    def run(self, arguments: Sequence[Tensor], parts: float) -> None:
        """Run one of the step's micro-batches. The step has `parts` times as many samples."""
        self._run(arguments, parts, self.first)
        self.first = False

    def _run(self, arguments: Sequence[Tensor], parts: float, first: bool) -> None:
        copies = self.copies
        loss, scalars = self.module(*arguments) if copies is None else copies.call(self.module, arguments)
        self.backward(loss / parts)
        if copies is not None:
            copies.hand_over(first)
        self.sums.add({"loss": loss, **scalars}, parts)


class CapturedPasses(Passes):
    """The same passes as CUDA graphs, one for each shape of micro-batch; with copied weights, another one for those
    that begin a step. The first micro-batch of a kind runs as usual, and the second is captured.

    All arguments of the module must be tensors, and every batch must give gradients for the same weights. If capturing
    fails, `say` gets one line, and everything runs as usual from then on.
    """

    def __init__(
        self,
        module: nn.Module,
        backward: Callable[[Tensor], None],
        capture: Capture,
        say: Callable[[str], None] = print,
        copies: HalfCopies | None = None,
    ) -> None:
        super().__init__(module, backward, copies)
        self.say = say
        self._capture: Capture | None = capture
        self._inputs: dict[tuple, list[Tensor]] = {}
        self._replays: dict[tuple, Work] = {}

    @property
    def graphs(self) -> int:
        """The number of captured graphs."""
        return len(self._replays)

    def begin(self) -> None:
        """Begin a step: set the gradients to zero in place, at the addresses that the graphs use. The first micro-batch
        replaces those of copied weights."""
        self.first = True
        copied = set() if self.copies is None else set(map(id, self.copies.weights))
        held = [own.grad for own in self.trained if own.grad is not None and id(own) not in copied]
        if held:
            torch._foreach_zero_(held)

    def run(self, arguments: Sequence[Tensor], parts: float) -> None:
        """As `Passes.run`."""
        first, self.first = self.first and self.copies is not None, False
        if self._capture is None:
            return self._run(arguments, parts, first)
        shape = (first, parts, *((argument.shape, argument.dtype) for argument in arguments))
        known = shape in self._inputs
        if not known:
            self._inputs[shape] = [torch.empty_like(argument) for argument in arguments]
        inputs = self._inputs[shape]
        for place, argument in zip(inputs, arguments, strict=True):
            place.copy_(argument)
        work = partial(self._run, inputs, parts, first)
        if not known:
            self._capture.warm_up(work)
        elif shape in self._replays or self._captured(shape, work):
            self._replays[shape]()
        else:
            work()
        return None

    def _captured(self, shape: tuple, work: Work) -> bool:
        assert self._capture is not None
        try:
            self._replays[shape] = self._capture.capture(work)
        except RuntimeError as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self.say(f"training steps cannot be captured as CUDA graphs and run without them: {reason}")
            self._capture = None
            self._replays.clear()
            self._inputs.clear()
            return False
        return True


def make_passes(
    accelerator: Accelerator, module: nn.Module, config: LoopConfig, capture: Capture | None = None
) -> Passes:
    """Captured passes if possible, else plain ones, with one line that says why. `capture` replaces CUDA's graphs, on
    any device."""
    reason = "" if capture is not None else why_not_captured(accelerator, config)
    copies = HalfCopies(accelerator.unwrap_model(module)) if _may_copy(accelerator, module) else None
    if reason:
        accelerator.print(f"training steps are not captured as CUDA graphs: {reason}")
        return Passes(module, accelerator.backward, copies)
    return CapturedPasses(module, accelerator.backward, capture or CudaCapture(), accelerator.print, copies)


def _may_copy(accelerator: Accelerator, module: nn.Module) -> bool:
    """Whether passes may read copies of the weights (`HalfCopies`)."""
    twice = any(getattr(layer, "gradient_checkpointing", False) for layer in module.modules())
    alone, half = accelerator.distributed_type == "NO", accelerator.mixed_precision == "bf16"
    return alone and half and not twice and accelerator.device.type == "cuda"


def why_not_captured(accelerator: Accelerator, config: LoopConfig) -> str:
    """Why training steps cannot be CUDA graphs; empty if they can."""
    if not config.graph:
        return "graph is false in the configuration"
    if accelerator.device.type != "cuda":
        return f"the device is {accelerator.device.type}, not cuda"
    if torch.cuda.get_allocator_backend() != "native":
        return "the allocator is cudaMallocAsync, where a failed capture ends the process"
    if accelerator.distributed_type != "NO":  # of one process, too, if torchrun started it
        return "the run was started for several processes, which exchange gradients in each step"
    if accelerator.scaler is not None:
        return 'mixed_precision = "fp16" looks at the gradients in each step; bf16 does not'
    return ""


@contextlib.contextmanager
def steady(device: torch.device) -> Iterator[None]:
    """On CUDA, convolutions choose their fastest algorithm in the first step, because shapes never change."""
    if device.type != "cuda":
        yield
        return
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
