"""Evaluations replayed as CUDA graphs: the same kernels on the same numbers, but one launch for all of them.

A frame's kernels are many and small, so that a GPU waits for the program that launches them. A graph is captured once
for each size, number of branches and set of weights. Conditions are copied into its buffers when they change, x and
noise level before each replay. The mask network runs on a second stream. Not in the paper.
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

from ..method.denoiser import Evaluated, FrameTask, Predict, evaluate, predict
from ..models.unet import Reuse
from .graph_trial import give_up, survives_capture

logger = logging.getLogger(__name__)

MOST_GRAPHS = 16
"""Kept at once; the one that was not used for the longest time goes first."""


class Graphs(Protocol):
    """How work is recorded: `CudaGraphs`, or a stand-in where there is no GPU."""

    def beside(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """As `denoiser.Beside`."""
        ...

    def capture(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """A function that does `work()` again, and the result, whose tensors it then fills."""
        ...


class CudaGraphs:
    """Records on one CUDA device. All graphs share their memory, so a result must be copied before another replay."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream, self._side = _streams(device)
        with torch.cuda.device(device):
            self._pool = torch.cuda.graph_pool_handle()

    def beside(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """`work()` on a stream of its own; the returned function has the current stream wait for it."""
        self._side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._side):
            result = work()

        def join() -> Any:
            torch.cuda.current_stream(self.device).wait_stream(self._side)
            return result

        return join

    def capture(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """The work is done once before it is captured: libraries set themselves up, and small kernels are compiled."""
        with torch.cuda.device(self.device):
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                result = mapped(work(), torch.empty_like)
            current.wait_stream(self._stream)

            def into_result() -> None:
                # Nothing that was allocated while capturing may outlive it: cudaMallocAsync cannot free it later.
                _copy_all(list(zip(tensors_in(result), tensors_in(work()), strict=True)))

            graph = torch.cuda.CUDAGraph()
            try:
                # Other threads of a host may use the device meanwhile.
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                    into_result()
            except BaseException:
                torch.cuda.set_stream(current)  # PyTorch may stay on the other one
                raise
        return graph.replay, result


@functools.cache
def _streams(device: torch.device) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
    """To capture on, and for work beside that. Libraries keep memory for each stream, so all graphs share them."""
    with torch.cuda.device(device):
        return torch.cuda.Stream(), torch.cuda.Stream()


def why_not(device: torch.device) -> str:
    """Why evaluations on that device are not captured; empty where they are."""
    if device.type != "cuda":
        return f"CUDA graphs need an NVIDIA card, this is {device.type}"
    if torch.cuda.get_allocator_backend() != "native" and not survives_capture(str(device)):
        return "it failed with cudaMallocAsync; use torch's own allocator"
    return ""


class Captured:
    """`denoiser.evaluate`, replayed. Gives the results of the plain way to the bit.

    Where evaluations cannot be captured, one line is logged, and they run the plain way. `predict` may be a compiled
    one. `stops` are a host's exceptions that end a run and are no failures. `replays` counts.
    """

    plain_name = "function"
    """What a journal calls the way that frames were computed in: the results are those of the plain function."""

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
        """Forget all graphs, and free their memory."""
        self._conditions: dict[int, _Conditions] = {}
        self._captures: OrderedDict[Hashable, _Capture] = OrderedDict()
        self._failed: set[Hashable] = set()
        self._numbers: dict[Hashable, int] = {}
        self._number_of = weakref.WeakKeyDictionary[FrameTask, int]()
        self.replays = 0

    def __call__(
        self, task: FrameTask, x: Tensor, level: Tensor, reuse: tuple[Reuse, Reuse] | None = None
    ) -> Evaluated:
        """As `denoiser.evaluate`."""
        if self._graphs is None:
            return evaluate(task, x, level, reuse, self._predict)
        key = (self._number(task), outline((x, reuse)))
        if key in self._failed:
            return evaluate(task, x, level, reuse, self._predict)
        capture = self._captures.get(key)
        if capture is None:
            capture = self._capture(key, task, x, level, reuse)
            if capture is None:
                return evaluate(task, x, level, reuse, self._predict)
        self._captures.move_to_end(key)
        self.replays += 1
        return capture.replay(task, x, level, reuse)

    def _number(self, task: FrameTask) -> int:
        """Tasks that may share graphs have the same number. Found once for each task: once or twice for each frame."""
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
        except BaseException as error:  # if it is not of capturing, the plain way raises it again
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
    """A task with tensors of its own, into which those of other tasks like it are copied."""

    def __init__(self, task: FrameTask) -> None:
        with normal_tensors():
            self.task: FrameTask = mapped(task, torch.empty_like)
        self._buffers = tensors_in(self.task)
        self._sources: list[tuple[Any, int]] = [(lambda: None, 0)] * len(self._buffers)
        self._task: Callable[[], FrameTask | None] = lambda: None

    def take(self, task: FrameTask) -> None:
        """Copy what is not the very tensor that was copied last."""
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

        def work() -> Evaluated:
            x, level, reuse = self._inputs
            return evaluate(conditions.task, x, level, reuse, predict, graphs.beside)

        with normal_tensors():
            self._again, self._result = graphs.capture(work)

    def replay(self, task: FrameTask, x: Tensor, level: Tensor, reuse: tuple[Reuse, Reuse] | None) -> Evaluated:
        """Results are copies: the next replay, of this graph or another, writes to the same memory."""
        self._fill(task, x, level, reuse)
        self._again()
        return mapped(self._result, torch.clone)

    def _fill(self, task: FrameTask, x: Tensor, level: Tensor, reuse: tuple[Reuse, Reuse] | None) -> None:
        self.conditions.take(task)
        _copy_all(list(zip(self._buffers, tensors_in((x, level, reuse)), strict=True)))


class _Weights:
    """Where a network's weights lie. A host may put other tensors in their place, which a graph would not read."""

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
        """Whether any lies elsewhere than when this was asked last."""
        before, self.addresses = self.addresses, self._look()
        return before != self.addresses

    def _look(self) -> tuple[int, ...]:
        return tuple(_address(tensors.get(name)) for tensors, name in self._places)


def keep_failed_capture(error: BaseException) -> None:
    """With cudaMallocAsync, keep the tensors of a failed capture, which its traceback holds, and try no other. To free
    them would end the process."""
    if torch.cuda.is_available() and torch.cuda.get_allocator_backend() != "native":
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(error))
        give_up()


def _stop_in(error: BaseException, stops: tuple[type[BaseException], ...]) -> BaseException | None:
    """What asked for the end of the run, if anything did: the end of a capture may have put another error over it."""
    found: BaseException | None = error
    while found is not None and isinstance(found, Exception) and not isinstance(found, stops):
        found = found.__context__
    return found


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with every tensor in its tuples, lists and dataclasses changed; all else is as it was."""
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
    """The tensors that `mapped` would change, in its order."""
    return list(_tensors(value))


def outline(value: Any) -> Hashable:
    """Types, shapes and plain values: what must be equal for `value` to take another's place in a graph."""
    if isinstance(value, Tensor):
        return (value.shape, value.dtype, value.device)
    if isinstance(value, tuple | list):
        return tuple(map(outline, value))
    if _is_dataclass(value):
        return tuple(outline(getattr(value, field.name)) for field in dataclasses.fields(value))
    return value


@contextmanager
def normal_tensors() -> Iterator[None]:
    """Tensors made in here may be written to both inside and outside of inference mode."""
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
    for dtype in {buffer.dtype for buffer, _ in pairs}:  # one kernel for all of a type
        of_type = [(buffer, tensor) for buffer, tensor in pairs if buffer.dtype == dtype]
        torch._foreach_copy_([buffer for buffer, _ in of_type], [tensor for _, tensor in of_type])


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # inference tensors do not count their changes


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
