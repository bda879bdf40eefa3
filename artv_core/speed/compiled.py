"""The same results, sooner: evaluations compiled, frames decoded beside the sampling. Not in the paper."""

import functools
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..method.denoiser import FrameTask, NetworkResult, Reuse, predict, run_networks
from .device_limits import check_compute_capability
from .graphs import Captured

MOST_SIZES = 64
"""Compiled for before evaluations of another size run as they are; torch's own limit, 8, would be four sizes."""

Item = TypeVar("Item")
Made = TypeVar("Made")


class Compiled:
    """`denoiser.run_networks`, compiled by `torch.compile` for each size.

    On a CPU both networks, guidance and mix are compiled as one. On a GPU each network is compiled, and the whole
    evaluation is replayed as a CUDA graph (`Captured`). The first frame from text and the frames after it are compiled
    apart, as they run other networks. That takes minutes, once: the compiler keeps what it made in its cache on disk.
    Raises ValueError where there is no compiler.
    """

    def __init__(self, device: torch.device, backend: str = "inductor", graph: bool = True) -> None:
        """`backend` is `torch.compile`'s; only the usual one needs a compiler. Without `graph` nothing is captured."""
        if backend == "inductor":
            check_compiler(device)
        self._run: Any
        if device.type == "cuda":
            fast = torch.compile(predict, dynamic=False, backend=backend)
            # Compiled kernels are Triton's, which refuses memory that cudaMallocAsync gives while a graph is captured.
            captured = graph and torch.cuda.get_allocator_backend() == "native"
            self._run = Captured(device, fast) if captured else functools.partial(run_networks, predict=fast)
        else:
            self._run = torch.compile(run_networks, dynamic=False, backend=backend)

    def reset(self) -> None:
        """Forget what was captured, and free its memory; what was compiled stays."""
        if isinstance(self._run, Captured):
            self._run.reset()

    def __call__(
        self, task: FrameTask, x: Tensor, level: Tensor, reuse: tuple[Reuse, Reuse] | None = None
    ) -> NetworkResult:
        """As `denoiser.run_networks`."""
        with _many_graphs():
            return self._run(task, x, level, reuse)


def check_compiler(device: torch.device) -> None:
    """Raises ValueError, one line, where `torch.compile` lacks what it needs for that device."""
    if device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "cl")):
        raise ValueError("compiling for the CPU needs a C++ compiler (g++ or clang++); install one, or do not compile")
    if device.type == "cuda":
        try:
            import triton  # noqa: F401
        except ImportError:
            raise ValueError("compiling for a GPU needs the package triton; install it, or do not compile") from None
        check_compute_capability(device)
    if device.type == "mps":
        raise ValueError("device mps cannot be compiled for; do not compile")


def one_behind(items: Iterable[Item], begin: Callable[[Item], Made], finish: Callable[[Made], Made]) -> Iterator[Made]:
    """`finish(begin(item))` for each item. What was begun is finished only when the next item is there, so that on a
    GPU the work on both goes side by side; but the first one at once, since somebody waits for it."""
    begun: list[Made] = []
    for number, item in enumerate(items):
        yield from map(finish, begun)
        begun = [begin(item)]
        if number == 0:
            yield from map(finish, begun)
            begun = []
    yield from map(finish, begun)


class SideStream:
    """A CUDA stream beside the one that is current where it is used."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)

    def begin(self, work: Callable[[], Tensor], given: Tensor) -> Tensor:
        """Start `work()`, which reads `given`, as soon as that is there; nobody may use the result before `finish`."""
        self.stream.wait_stream(torch.cuda.current_stream(given.device))
        given.record_stream(self.stream)
        with torch.cuda.stream(self.stream):
            return work()

    def finish(self, result: Tensor) -> None:
        """From here on the current stream may use the result."""
        current = torch.cuda.current_stream(result.device)
        current.wait_stream(self.stream)
        result.record_stream(current)


def _many_graphs() -> Any:
    config: Any = torch._dynamo.config
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # before torch 2.6
    return config.patch({name: 2 * MOST_SIZES})
