"""A stand-in for CUDA graphs, on whatever device: it records operations, not Python, and plays them again."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Work = Callable[[], None]


class Tapes:
    """Captures as CUDA does: what is captured has no effect yet; what is played reads and writes the memory of
    then, and does nothing that only Python did. `made` and `played` count tapes, and how often any was played."""

    def __init__(self, refuses: str = "") -> None:
        """`refuses`: why nothing can be captured."""
        self.refuses, self.made, self.played, self.warmed_up = refuses, 0, 0, 0

    def warm_up(self, work: Work) -> None:
        self.warmed_up += 1
        work()

    def capture(self, work: Work, generators: Sequence[torch.Generator] = ()) -> Work:
        with _Recorder() as recorder:
            work()
            if self.refuses:
                recorder.undo()
                raise RuntimeError(self.refuses)
        recorder.undo()
        self.made += 1

        def play() -> None:
            self.played += 1
            recorder.play()

        return play


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Sequence[Any], Mapping[str, Any], list[Tensor | None]]] = []
        self.own: set[int] = set()  # memory that the recorded operations made
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(
        self, operation: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self._keep(operation, args, kwargs)
        given = {_memory(value) for value in _tensors((args, kwargs))}
        result = operation(*args, **kwargs)
        made = [value if _memory(value) not in given else None for value in _tensors(result)]
        self.own |= {_memory(value) for value in made if value is not None}
        self.operations.append((operation, args, kwargs, made))
        return result

    def _keep(self, operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """What an operation is about to write and was there before."""
        for index, argument in enumerate(operation._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            written = args[index] if index < len(args) else kwargs.get(argument.name)
            for value in _tensors(written):
                if _memory(value) not in self.own | self.before.keys():
                    whole = torch.empty(0, dtype=torch.uint8).set_(value.untyped_storage())  # other views are in it too
                    self.before[_memory(value)] = (whole, whole.clone())

    @torch.no_grad()
    def undo(self) -> None:
        """Put back what was there before."""
        for value, kept in self.before.values():
            value.copy_(kept)

    @torch.no_grad()
    def play(self) -> None:
        """The operations again; each result goes to where the first one is, from where the next operations read it."""
        for operation, args, kwargs, made in self.operations:
            for place, value in zip(made, _tensors(operation(*args, **kwargs)), strict=True):
                if place is not None:
                    place.copy_(value)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
