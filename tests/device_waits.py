"""Counts, on a CPU, where a program would wait for a GPU: `with DeviceWaits(model) as waits: ...; waits.count`.

Some tensors play the device's memory: those that `DeviceWaits` is given, those that are moved to a `torch.device` or
made on one inside the block, and all that is computed from them. All others are the host's: tensors made without a
device, and what comes back by `.cpu()` or `.to("cpu")`. So a device named by the string "cpu" is the host, and a
`torch.device` object, as programs hand it on, is the device, although it is the CPU here.

Three kinds of wait are counted. Python reads a value (`item`, `bool`, `float`, `tolist`, `equal`). A result has a size
that only the device knows (`nonzero`, indexing with a mask). A copy between the two is not asynchronous: that takes
`non_blocking=True`, and pinned memory where it goes to the device.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).resolve().parent.parent

VALUES = {"aten::_local_scalar_dense", "aten::equal", "aten::allclose"}
"""Operations that give Python a value."""
SIZES = {
    "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive",
    "aten::bincount",
}  # fmt: skip
"""Operations whose result has a size that follows from values."""
TO_HOST = {Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.__array__}
"""What a CPU does without an operation, for it has the values at hand."""
FROM_PYTHON = {torch.tensor, torch.as_tensor, torch.asarray}
"""With a device, these copy what Python has."""


class DeviceWaits:
    """Counts waits of this thread inside the block. `on_device` are modules, tensors, and lists, tuples or dictionaries
    of them that lie on the device from the start.

    `where` names each wait as "artv_core/training/loop.py:198 aten::nonzero", with the line of this repository that
    was running; `count` is their number.
    """

    def __init__(self, *on_device: Any) -> None:
        self.where: list[str] = []
        self.device, self.pinned, self.numbers = _Memory(), _Memory(), _Memory()
        self._modes = (_Operations(self), _Functions(self))
        self.place(*on_device)

    @property
    def count(self) -> int:
        """How often the program would have waited."""
        return len(self.where)

    def place(self, *things: Any) -> None:
        """Say that these lie on the device: modules, tensors, and lists, tuples or dictionaries of them."""
        for thing in tree_leaves(things):
            held = [*thing.parameters(), *thing.buffers()] if isinstance(thing, nn.Module) else [thing]
            for tensor in held:
                if isinstance(tensor, Tensor):
                    self.device.add(tensor)

    def add(self, what: str) -> None:
        """Count one wait, at the line that is running."""
        self.where.append(f"{_running_line()} {what}")

    def __enter__(self) -> "DeviceWaits":
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)


class _Memory:
    """A set of tensors by the memory that they lie in, so that it has their views too. Keeps none of it alive."""

    def __init__(self) -> None:
        self._storages: dict[int, StorageWeakRef] = {}

    def add(self, tensor: Tensor) -> None:
        reference = StorageWeakRef(tensor.untyped_storage())
        self._storages[reference.cdata] = reference  # while there is a reference, nothing else gets its number

    def remove(self, tensor: Tensor) -> None:
        self._storages.pop(tensor.untyped_storage()._cdata, None)

    def __contains__(self, tensor: object) -> bool:
        return isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata in self._storages


class _Functions(TorchFunctionMode):
    """Sees what a program calls, also where there is nothing to do for a CPU, as for `.cpu()`."""

    def __init__(self, waits: DeviceWaits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(
        self, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs, device = kwargs or {}, self.waits.device
        if function is Tensor.pin_memory:
            return self._pinned(args[0])
        if function is Tensor.to:
            return self._moved(*args, **kwargs)
        if function in TO_HOST and args[0] in device:
            self.waits.add(function.__name__)
            result = function(*args, **kwargs)
            return _apart(result, args[0], device, False) if isinstance(result, Tensor) else result
        if function is Tensor.__setitem__ and isinstance(args[2], (bool, int, float)):
            args = (*args[:2], _on(device, torch.tensor(args[2], dtype=args[0].dtype)))  # the device fills it in
        made = function(*args, **kwargs)
        if isinstance(kwargs.get("device"), torch.device) and isinstance(made, Tensor):
            if function in FROM_PYTHON and args[0] not in device:
                self.waits.add(f"{function.__name__} on the device")
                made = made.clone()
            device.add(made)
        return made

    def _pinned(self, tensor: Tensor) -> Tensor:
        return _on(self.waits.pinned, tensor.clone())

    def _moved(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        device, given = self.waits.device, [*args, *kwargs.values()]
        target = next((x for x in given if isinstance(x, (torch.device, str, Tensor))), None)
        before = tensor in device
        after = before if target is None else target in device if isinstance(target, Tensor) else target != "cpu"
        if isinstance(target, torch.device):
            after = True
        moved = tensor.to(*args, **kwargs)
        if before == after:
            return moved
        non_blocking = kwargs.get("non_blocking", next((x for x in args if isinstance(x, bool)), False))
        if not non_blocking or (after and tensor not in self.waits.pinned):
            self.waits.add("copy to the device" if after else "copy to the host")
        return _apart(moved, tensor, device, after)


class _Operations(TorchDispatchMode):
    """Sees what is computed, also inside functions of PyTorch and on the way back."""

    def __init__(self, waits: DeviceWaits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(
        self, operation: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs, device = kwargs or {}, self.waits.device
        inputs = [*_tensors_in(args), *_tensors_in(kwargs.values())]
        if operation._schema.name == "aten::scalar_tensor":  # of a number within an operation; a device fills it in
            return _on(self.waits.numbers, operation(*args, **kwargs))
        if not any(tensor in device for tensor in inputs):
            return operation(*args, **kwargs)
        reason = self._reason(operation._schema.name, args, kwargs)
        if reason:
            self.waits.add(reason)
        given = {tensor.untyped_storage()._cdata for tensor in inputs}
        result = operation(*args, **kwargs)
        for made in _tensors_in([result]):
            if made.untyped_storage()._cdata not in given:
                device.add(made)
        return result

    def _reason(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Why an operation on the device's memory would wait; empty where it would not."""
        device, numbers = self.waits.device, self.waits.numbers
        if name in VALUES or name in SIZES:
            return name
        if name in ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"):
            return self._indexing(name, args)
        if name == "aten::repeat_interleave" and kwargs.get("output_size") is None:
            return name
        if name == "aten::where" and any(isinstance(x, Tensor) and x not in device and x not in numbers for x in args):
            return "aten::where with a number of the host"  # which is copied first
        if name in ("aten::masked_fill", "aten::masked_fill_") and args[2] in device:
            return name  # it takes the value as a number of the host
        if name in ("aten::copy_", "aten::_foreach_copy_"):
            pairs = list(zip(_listed(args[0]), _listed(args[1]), strict=True))
            non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
            return self._copying(name, pairs, non_blocking)
        return ""

    def _indexing(self, name: str, args: Sequence[Any]) -> str:
        indices = [index for index in args[1] if index is not None]
        fills = name != "aten::index" and args[2].numel() == 1 and len(indices) == 1
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices) and not fills:
            return f"{name} with a mask"
        if any(index not in self.waits.device for index in indices):
            return f"{name} with indices of the host"
        return ""

    def _copying(self, name: str, pairs: Sequence[tuple[Tensor, Tensor]], non_blocking: bool) -> str:
        device, pinned = self.waits.device, self.waits.pinned
        across = [(target, source) for target, source in pairs if (target in device) != (source in device)]
        if any(not non_blocking or (target in device and source not in pinned) for target, source in across):
            return f"{name} between host and device"
        return ""


def _tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """Of operations, whose arguments are at most lists of tensors; `tree_leaves` takes ten times as long."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors_in(value)


def _listed(value: Any) -> Sequence[Tensor]:
    return [value] if isinstance(value, Tensor) else value


def _on(memory: _Memory, tensor: Tensor) -> Tensor:
    memory.add(tensor)
    return tensor


def _apart(moved: Tensor, tensor: Tensor, device: _Memory, on_device: bool) -> Tensor:
    """A copy on the other side, where a CPU gives the same memory back."""
    if moved.untyped_storage()._cdata == tensor.untyped_storage()._cdata:
        moved = moved.clone()
    (device.add if on_device else device.remove)(moved)
    return moved


def _running_line() -> str:
    """The innermost line of this repository, this file apart."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename).resolve()
        if path != Path(__file__).resolve() and path.is_relative_to(ROOT):
            return f"{path.relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere:0"


def resident_tensors(training: Any) -> list[Tensor]:
    """What `ResidentTraining` keeps on the device, apart from its module."""
    optimizer, drawn = training.inner_optimizer, training.drawing
    held = [optimizer.weights, optimizer.gradients, optimizer.first, optimizer.second, optimizer.taken]
    held += [training.average.flat, training.number, drawn.latents, drawn.tokens, drawn.no_caption, drawn.ratios]
    held += [drawn.signal, drawn.spread, drawn.level_signal, drawn.level_spread, drawn.steps_back, drawn.coverage]
    held += [value for segment in optimizer.segments for value in (segment.rate, segment.kept, segment.root)]
    return [tensor for tensor in held if tensor is not None]
