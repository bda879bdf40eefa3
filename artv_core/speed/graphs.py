"""Evaluations replayed as CUDA graphs: the same kernels on the same numbers, but with a single launch.

A frame needs many small kernels, so without graphs the GPU waits for the program that launches them. A graph is
captured once for each size, number of branches and set of weights. Conditions are copied into its buffers when they
change; x and the noise level are copied before each replay. The mask network runs on a second CUDA stream. Not in the
paper.
"""

import ctypes
import dataclasses
import functools
import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..method.denoiser import FrameTask, NetworkResult, Predict, predict, run_networks
from ..models.unet import Reuse
from .graph_trial import give_up, survives_capture

logger = logging.getLogger(__name__)

MOST_GRAPHS = 16
"""Most graphs to keep. The least recently used one is deleted first."""


class Graphs(Protocol):
    """How work is captured: `CudaGraphs`, or a substitute without a GPU."""

    def beside(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """Like `denoiser.Beside`."""
        ...

    def capture(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Returns a function that runs `work()` again, and a result whose tensors this function fills."""
        ...


class CudaGraphs:
    """Captures on one CUDA device. All graphs share memory, so a result must be copied before the next replay."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream, self._side = _streams(device)
        with torch.cuda.device(device):
            self._pool = torch.cuda.graph_pool_handle()

    def beside(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """Run `work()` on a second stream. The returned function makes the current stream wait for the result."""
        self._side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._side):
            result = work()

        def join() -> Any:
            torch.cuda.current_stream(self.device).wait_stream(self._side)
            return result

        return join

    def capture(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Capture `work()`. It runs once before that, so that libraries are initialised and small kernels compiled."""
        with torch.cuda.device(self.device):
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                result = mapped(work(), torch.empty_like)
            current.wait_stream(self._stream)

            def into_result() -> None:
                # Memory that is allocated during the capture must not outlive it: cudaMallocAsync cannot free it later.
                _copy_all(list(zip(tensors_in(result), tensors_in(work()), strict=True)))

            graph = torch.cuda.CUDAGraph()
            try:
                # Other threads of the host may use the device meanwhile.
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                    into_result()
            except BaseException:
                torch.cuda.set_stream(current)  # PyTorch may leave the other stream current
                raise
        return graph.replay, result


@functools.cache
def _streams(device: torch.device) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
    """The stream to capture on, and a second one for parallel work. Libraries reserve memory for each stream, so all
    graphs share these two."""
    with torch.cuda.device(device):
        return torch.cuda.Stream(), torch.cuda.Stream()


def why_not(device: torch.device) -> str:
    """The reason why evaluations on this device cannot be captured, or "" if they can."""
    if device.type != "cuda":
        return f"CUDA graphs need an NVIDIA GPU, but the device is {device.type}"
    if torch.cuda.get_allocator_backend() != "native" and not survives_capture(str(device)):
        return "it failed with cudaMallocAsync; use torch's own allocator"
    return ""


class Captured:
    """`denoiser.run_networks` as CUDA graphs. The results equal those without graphs bit for bit.

    If evaluations cannot be captured, one line is logged and they run without graphs. `predict` may be a compiled
    version. `stops` are a host's exceptions that end a run without being failures. `replays` is the number of replays.
    """

    plain_name = "function"
    """The name in a journal for this way of computing frames: that of the plain function, as the results are equal."""

    def __init__(
        self,
        device: torch.device,
        predict: Predict = predict,
        graphs: Graphs | None = None,
        stops: tuple[type[BaseException], ...] = (),
    ) -> None:
        self._stops = stops
        reason = "" if graphs is not None else why_not(device)
        if reason:
            logger.warning("evaluations are not captured as CUDA graphs, so frames take longer: %s", reason)
        self._graphs: Graphs | None = graphs or (None if reason else CudaGraphs(device))
        self._predict = predict
        self._weights = weakref.WeakKeyDictionary[nn.Module, _Weights]()
        self.reset()

    def reset(self) -> None:
        """Delete all graphs, and free their memory."""
        self._conditions: dict[int, _Conditions] = {}
        self._captures: OrderedDict[Hashable, _Capture] = OrderedDict()
        self._failed: set[Hashable] = set()
        self._numbers: dict[Hashable, int] = {}
        self._number_of = weakref.WeakKeyDictionary[FrameTask, int]()
        self.replays = 0

    def __call__(
        self, task: FrameTask, x: Tensor, level: Tensor, reuse: tuple[Reuse, Reuse] | None = None
    ) -> NetworkResult:
        """Like `denoiser.run_networks`."""
        if self._graphs is None:
            return run_networks(task, x, level, reuse, self._predict)
        key = (self._number(task), outline((x, reuse)))
        if key in self._failed:
            return run_networks(task, x, level, reuse, self._predict)
        capture = self._captures.get(key)
        if capture is None:
            capture = self._capture(key, task, x, level, reuse)
            if capture is None:
                return run_networks(task, x, level, reuse, self._predict)
        self._captures.move_to_end(key)
        self.replays += 1
        return capture.replay(task, x, level, reuse)

    def _number(self, task: FrameTask) -> int:
        """A number that is the same for tasks that can share graphs. It is computed once for each task, so once or
        twice for each frame."""
        if task not in self._number_of:
            weights = tuple(self._addresses(network) for network in (task.noise_network, task.mask_network))
            self._number_of[task] = self._numbers.setdefault((outline(task), weights), len(self._numbers))
        return self._number_of[task]

    def _addresses(self, network: Any) -> Hashable:
        if not isinstance(network, nn.Module):
            return None
        if network not in self._weights:
            self._weights[network] = _Weights(network)
        moved = self._weights[network].have_moved()
        if moved:
            self._captures.clear()
            self._conditions.clear()
        return self._weights[network].addresses

    def _capture(
        self, key: Hashable, task: FrameTask, x: Tensor, level: Tensor, reuse: tuple[Reuse, Reuse] | None
    ) -> "_Capture | None":
        assert self._graphs is not None
        number = self._number(task)
        if number not in self._conditions:
            self._conditions[number] = _Conditions(task)
        try:
            capture = _Capture(self._graphs, self._predict, self._conditions[number], task, x, level, reuse)
        except BaseException as error:  # if capturing is not the cause, the plain run raises it again
            keep_failed_capture(error)
            if (stop := _stop_in(error, self._stops)) is not None:
                raise stop from None
            reason = str(error).strip().partition("\n")[0]
            logger.warning("an evaluation cannot be captured as a CUDA graph, so frames take longer: %s", reason)
            self._failed.add(key)
            return None
        self._captures[key] = capture
        while len(self._captures) > MOST_GRAPHS:
            self._captures.popitem(last=False)
        in_use = {id(capture.conditions) for capture in self._captures.values()}
        self._conditions = {key: made for key, made in self._conditions.items() if id(made) in in_use}
        return capture


class _Conditions:
    """A task with its own tensors, into which the tensors of similar tasks are copied."""

    def __init__(self, task: FrameTask) -> None:
        with normal_tensors():
            self.task: FrameTask = mapped(task, torch.empty_like)
        self._buffers = tensors_in(self.task)
        self._sources: list[tuple[Any, int]] = [(lambda: None, 0)] * len(self._buffers)
        self._task: Callable[[], FrameTask | None] = lambda: None

    def take(self, task: FrameTask) -> None:
        """Copy the tensors that differ, by identity or version, from those that were copied last."""
        if self._task() is task:
            return
        pairs = []
        for index, (buffer, tensor) in enumerate(zip(self._buffers, tensors_in(task), strict=True)):
            source, version = self._sources[index]
            if source() is not tensor or version != _version(tensor):
                pairs.append((buffer, tensor))
                self._sources[index] = (weakref.ref(tensor), _version(tensor))
        _copy_all(pairs)
        self._task = weakref.ref(task)


class _Capture:
    """One graph, its inputs and its results."""

    def __init__(
        self,
        graphs: Graphs,
        predict: Predict,
        conditions: _Conditions,
        task: FrameTask,
        x: Tensor,
        level: Tensor,
        reuse: tuple[Reuse, Reuse] | None,
    ) -> None:
        self.conditions = conditions
        with normal_tensors():
            self._inputs = mapped((x, level, reuse), torch.empty_like)
        self._buffers = tensors_in(self._inputs)
        self._fill(task, x, level, reuse)

        def work() -> NetworkResult:
            x, level, reuse = self._inputs
            return run_networks(conditions.task, x, level, reuse, predict, graphs.beside)

        with normal_tensors():
            self._again, self._result = graphs.capture(work)

    def replay(self, task: FrameTask, x: Tensor, level: Tensor, reuse: tuple[Reuse, Reuse] | None) -> NetworkResult:
        """Run the graph. The results are copies, since the next replay of any graph writes to the same memory."""
        self._fill(task, x, level, reuse)
        self._again()
        return mapped(self._result, torch.clone)

    def _fill(self, task: FrameTask, x: Tensor, level: Tensor, reuse: tuple[Reuse, Reuse] | None) -> None:
        self.conditions.take(task)
        _copy_all(list(zip(self._buffers, tensors_in((x, level, reuse)), strict=True)))


class _Weights:
    """The addresses of a network's weights. If a host replaces the tensors, a graph would still read the old ones."""

    def __init__(self, network: nn.Module) -> None:
        self._places: list[tuple[dict[str, Any], str]] = [
            (tensors, name)
            for module in network.modules()
            for tensors in (module._parameters, module._buffers)
            for name, tensor in tensors.items()
            if tensor is not None
        ]
        self.addresses = self._look()

    def have_moved(self) -> bool:
        """Whether any address has changed since the last call."""
        before, self.addresses = self.addresses, self._look()
        return before != self.addresses

    def _look(self) -> tuple[int, ...]:
        return tuple(_address(tensors.get(name)) for tensors, name in self._places)


def keep_failed_capture(error: BaseException) -> None:
    """With cudaMallocAsync, keep the tensors of a failed capture alive (its traceback refers to them), and try no other
    capture. Freeing them would crash the process."""
    if torch.cuda.is_available() and torch.cuda.get_allocator_backend() != "native":
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(error))
        give_up()


def _stop_in(error: BaseException, stops: tuple[type[BaseException], ...]) -> BaseException | None:
    """The exception that asked to end the run, or None. An error at the end of a capture may hide it."""
    found: BaseException | None = error
    while found is not None and isinstance(found, Exception) and not isinstance(found, stops):
        found = found.__context__
    return found


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with `change` applied to every tensor in its tuples, lists and dataclasses. All else is unchanged."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        parts = [mapped(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [mapped(part, change) for part in value]
    if _is_dataclass(value):
        changes = {field.name: mapped(getattr(value, field.name), change) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **changes)
    return value


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors that `mapped` would change, in the same order."""
    return list(_tensors(value))


def outline(value: Any) -> Hashable:
    """Types, shapes and plain values of `value`. Two values with equal outlines can use the same graph."""
    if isinstance(value, Tensor):
        return (value.shape, value.dtype, value.device)
    if isinstance(value, tuple | list):
        return tuple(map(outline, value))
    if _is_dataclass(value):
        return tuple(outline(getattr(value, field.name)) for field in dataclasses.fields(value))
    return value


@contextmanager
def normal_tensors() -> Iterator[None]:
    """Tensors that are made in this context can be written to both inside and outside of inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
    elif _is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _copy_all(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for dtype in {buffer.dtype for buffer, _ in pairs}:  # one kernel for all tensors of a dtype
        of_type = [(buffer, tensor) for buffer, tensor in pairs if buffer.dtype == dtype]
        torch._foreach_copy_([buffer for buffer, _ in of_type], [tensor for _, tensor in of_type])


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # inference tensors have no version counter


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
