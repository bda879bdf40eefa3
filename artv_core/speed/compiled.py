"""Faster sampling: compiled evaluations, and decoding of frames in parallel to sampling. Not in the paper."""

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
"""Sizes to compile for. Further sizes run uncompiled. torch's own limit, 8 versions, would mean four sizes."""

Item = TypeVar("Item")
Made = TypeVar("Made")


class Compiled:
    """`denoiser.run_networks`, compiled by `torch.compile` for each size.

    On a CPU, both networks, guidance and mix are compiled together. On a GPU, each network is compiled, and the whole
    evaluation is replayed as a CUDA graph (`Captured`). The first frame from text and the frames after it are compiled
    separately, as they run different networks. The first compilation takes minutes; its result stays in the compiler's
    cache on disk. Raises ValueError if there is no compiler.
    """

    def __init__(self, device: torch.device, backend: str = "inductor", graph: bool = True) -> None:
        """`backend` is that of `torch.compile`; only "inductor" needs a compiler. Without `graph`, nothing is captured
        as a CUDA graph."""
        if backend == "inductor":
            check_compiler(device)
        self._run: Any
        if device.type == "cuda":
            fast = torch.compile(predict, dynamic=False, backend=backend)
            # Compiled kernels use Triton, which refuses memory of cudaMallocAsync while a graph is captured.
            captured = graph and torch.cuda.get_allocator_backend() == "native"
            self._run = Captured(device, fast) if captured else functools.partial(run_networks, predict=fast)
        else:
            self._run = torch.compile(run_networks, dynamic=False, backend=backend)

    def reset(self) -> None:
        """Delete the captured graphs, and free their memory. Compiled code stays."""
        if isinstance(self._run, Captured):
            self._run.reset()

    def __call__(
        self, task: FrameTask, x: Tensor, level: Tensor, reuse: tuple[Reuse, Reuse] | None = None
    ) -> NetworkResult:
        """Like `denoiser.run_networks`."""
        with _many_graphs():
            return self._run(task, x, level, reuse)


def check_compiler(device: torch.device) -> None:
    """Raises ValueError if `torch.compile` lacks something that it needs for this device."""
    if device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "cl")):
        raise ValueError(
            "compiling for the CPU needs a C++ compiler (g++ or clang++); install one, or turn off compiling"
        )
    if device.type == "cuda":
        try:
            import triton  # noqa: F401
        except ImportError:
            raise ValueError(
                "compiling for a GPU needs the package triton; install it, or turn off compiling"
            ) from None
        check_compute_capability(device)
    if device.type == "mps":
        raise ValueError("torch.compile does not support device mps; turn off compiling")


def one_behind(items: Iterable[Item], begin: Callable[[Item], Made], finish: Callable[[Made], Made]) -> Iterator[Made]:
    """Yield `finish(begin(item))` for each item. An item is finished only after the next item has arrived, so that a
    GPU can work on both in parallel. The first item is finished at once, so that a user sees it early. If there is no
    next item because of an error, the last one is finished before the error is raised."""
    begun: list[Made] = []
    try:
        for number, item in enumerate(items):
            before, begun = begun, []
            yield from map(finish, before)
            begun = [begin(item)]
            if number == 0:
                before, begun = begun, []
                yield from map(finish, before)
    except (Exception, KeyboardInterrupt):
        yield from map(finish, begun)
        raise
    yield from map(finish, begun)


class SideStream:
    """A second CUDA stream, for work in parallel to the current stream."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)

    def begin(self, work: Callable[[], Tensor], given: Tensor) -> Tensor:
        """Start `work()`, which reads `given`, once `given` is computed. Do not use the result before `finish`."""
        self.stream.wait_stream(torch.cuda.current_stream(given.device))
        given.record_stream(self.stream)
        with torch.cuda.stream(self.stream):
            return work()

    def finish(self, result: Tensor) -> None:
        """Make the current stream wait for the result. After that it may use it."""
        current = torch.cuda.current_stream(result.device)
        current.wait_stream(self.stream)
        result.record_stream(current)


def _many_graphs() -> Any:
    config: Any = torch._dynamo.config
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # before torch 2.6
    return config.patch({name: 2 * MOST_SIZES})
