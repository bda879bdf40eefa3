"""Forward and backward pass of a step's micro-batches, on a CUDA device as CUDA graphs.

A fast GPU needs less time for the thousands of kernels of a training step than its host needs to launch them one by
one. A graph holds them all and is launched at once. It reads the same memory each time, so a batch is copied to where
the graph expects it, and gradients stay where they are: they are set to zero at the start of a step, not dropped.
"""

import contextlib
import gc
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .config import LoopConfig

Work = Callable[[], None]


class Capture(Protocol):
    """Makes graphs of work that runs on a device."""

    def warm_up(self, work: Work) -> None:
        """Do `work` once as usual; this comes before it is captured."""

    def capture(self, work: Work, generators: Sequence[torch.Generator] = ()) -> Work:
        """What does `work` again on the same memory, each time it is called. Capturing itself has no effect. What the
        work draws from `generators` it draws from them as they are at the time. Raises RuntimeError where the work
        cannot be captured; the generators are of no use then."""


class CudaCapture:
    """CUDA graphs. They share the memory that they compute in: one runs at a time and leaves nothing there."""

    def __init__(self) -> None:
        self.stream, self.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def warm_up(self, work: Work) -> None:
        """On a stream of its own, as PyTorch wants it for what is captured later."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            work()
        torch.cuda.current_stream().wait_stream(self.stream)

    def capture(self, work: Work, generators: Sequence[torch.Generator] = ()) -> Work:
        """Other threads, such as the one that pins batches, may use the device meanwhile."""
        graph, usual = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        for generator in generators:
            graph.register_generator_state(generator)
        gc.collect()  # what is freed now need not be kept beside the graph's own memory
        torch.cuda.empty_cache()
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                work()
        except RuntimeError:
            torch.cuda.set_stream(usual)  # some versions of PyTorch stay on the other one
            if generators:
                _free_default_generator()
            raise
        return graph.replay


def _free_default_generator() -> None:
    """After a capture that failed, PyTorch may go on thinking that the default generator is being captured: give it a
    state of its own again."""
    with contextlib.suppress(RuntimeError, AttributeError):  # versions that need no such thing
        default = torch.cuda.default_generators[torch.cuda.current_device()]
        default.graphsafe_set_state(torch.Generator(default.device).graphsafe_get_state())


class Sums:
    """Scalars of many steps, added up on the device and read together, for each reading makes the host wait.

    A sum is no number as soon as one of its parts was none.
    """

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, scalars: Mapping[str, Tensor], parts: int = 1) -> None:
        """Add a `parts`-th of each scalar []."""
        values = [value.detach().float() for value in scalars.values()]
        for name, value in zip(scalars, values, strict=True):
            if name not in self.totals:
                self.totals[name] = torch.zeros_like(value)
        torch._foreach_add_([self.totals[name] for name in scalars], values, alpha=1 / parts)

    def take(self, steps: int) -> dict[str, Tensor]:
        """Means over `steps` steps, still on the device; the sums begin again at 0."""
        means = {name: total / steps for name, total in self.totals.items()}
        for total in self.totals.values():
            total.zero_()
        return means


class Passes:
    """Loss and gradients of one micro-batch after another; both add up until the next step begins.

    `backward` takes a loss. Scalars go to `sums`: the loss as "loss", and those that the module returns.
    """

    def __init__(self, module: nn.Module, backward: Callable[[Tensor], None]) -> None:
        self.module, self.backward, self.sums = module, backward, Sums()
        self.trained = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def begin(self) -> None:
        """A step begins: no gradients."""
        for parameter in self.trained:
            parameter.grad = None

    def run(self, arguments: Sequence[Tensor], parts: int) -> None:
        """One of the step's `parts` micro-batches."""
        loss, scalars = self.module(*arguments)
        self.backward(loss / parts)
        self.sums.add({"loss": loss, **scalars}, parts)


class CapturedPasses(Passes):
    """The same as graphs, one for each shape of micro-batch. What a shape's first micro-batch needs is done as usual,
    and its second one is captured.

    Needs a module all of whose arguments are tensors, and to which each batch gives gradients for the same weights.
    Where capturing fails, `say` gets one line, and everything is done as usual from then on.
    """

    def __init__(
        self,
        module: nn.Module,
        backward: Callable[[Tensor], None],
        capture: Capture,
        say: Callable[[str], None] = print,
    ) -> None:
        super().__init__(module, backward)
        self.say = say
        self._capture: Capture | None = capture
        self._inputs: dict[tuple, list[Tensor]] = {}
        self._replays: dict[tuple, Work] = {}

    @property
    def graphs(self) -> int:
        """How many there are."""
        return len(self._replays)

    def begin(self) -> None:
        """A step begins: gradients are zeros, where graphs know them to be."""
        held = [parameter.grad for parameter in self.trained if parameter.grad is not None]
        if held:
            torch._foreach_zero_(held)

    def run(self, arguments: Sequence[Tensor], parts: int) -> None:
        """As `Passes.run`."""
        if self._capture is None:
            return super().run(arguments, parts)
        shape = (parts, *((argument.shape, argument.dtype) for argument in arguments))
        known = shape in self._inputs
        if not known:
            self._inputs[shape] = [torch.empty_like(argument) for argument in arguments]
        inputs = self._inputs[shape]
        for place, argument in zip(inputs, arguments, strict=True):
            place.copy_(argument)
        work = self._work(inputs, parts)
        if not known:
            self._capture.warm_up(work)
        elif shape in self._replays or self._captured(shape, work):
            self._replays[shape]()
        else:
            work()
        return None

    def _work(self, inputs: Sequence[Tensor], parts: int) -> Work:
        return lambda: Passes.run(self, inputs, parts)

    def _captured(self, shape: tuple, work: Work) -> bool:
        assert self._capture is not None
        try:
            self._replays[shape] = self._capture.capture(work)
        except RuntimeError as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self.say(f"training steps cannot be captured as CUDA graphs, and go on without: {reason}")
            self._capture = None
            self._replays.clear()
            self._inputs.clear()
            return False
        return True


def make_passes(
    accelerator: Accelerator, module: nn.Module, config: LoopConfig, capture: Capture | None = None
) -> Passes:
    """Captured where that can be, with one line where it cannot. `capture`: what captures, in the place of CUDA's
    graphs, on whatever device."""
    reason = "" if capture is not None else why_not_captured(accelerator, config)
    if reason:
        accelerator.print(f"training steps are not captured as CUDA graphs: {reason}")
        return Passes(module, accelerator.backward)
    return CapturedPasses(module, accelerator.backward, capture or CudaCapture(), accelerator.print)


def why_not_captured(accelerator: Accelerator, config: LoopConfig) -> str:
    """Why training steps cannot be CUDA graphs; empty where they can."""
    if not config.graph:
        return "graph is false in the configuration"
    if accelerator.device.type != "cuda":
        return f"the device is {accelerator.device.type}, not cuda"
    if torch.cuda.get_allocator_backend() != "native":
        return "the allocator is cudaMallocAsync, with which a failed capture ends the process"
    if accelerator.num_processes > 1 or accelerator.distributed_type == "FSDP":
        return "several processes train together, which exchange gradients on the way"
    if accelerator.scaler is not None:
        return 'mixed_precision = "fp16" looks at the gradients in each step; bf16 does not'
    return ""
