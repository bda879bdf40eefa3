"""Notices where training has lost its numbers: a loss, a gradient or a weight that is infinite or NaN.

From there on nothing can be learned, and a state saved later would only take the place of a good one. Not in the paper.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

_NEVER = 2**62


class FirstFaults:
    """The first step in which each of some scalars was no number. It is noted on the device, which copies it to the
    host when it gets there, so that nobody waits."""

    def __init__(self, names: Iterable[str], device: torch.device) -> None:
        self.names = tuple(names)
        self._steps: Tensor | None = None
        self._seen = torch.full((len(self.names),), _NEVER, pin_memory=device.type == "cuda")

    @torch.no_grad()
    def mark(self, step: int | Tensor, scalars: Mapping[str, Tensor]) -> None:
        """What the scalars [] of a step are; all of the names, on the device, where the step's number may be as well.
        A sum of several steps will do, for it is no number from the first on that is none."""
        values = torch.stack([scalars[name].detach().float() for name in self.names])
        if self._steps is None:
            self._steps = torch.full(values.shape, _NEVER, device=values.device)
        new = ~torch.isfinite(values) & (self._steps == _NEVER)
        if isinstance(step, Tensor):  # `masked_fill_` would read its value on the host, and wait for the device
            self._steps.copy_(torch.where(new, step, self._steps))
        else:
            self._steps.masked_fill_(new, step)

    @property
    def marked(self) -> list[Tensor]:
        """What `mark` writes to, where it has."""
        return [] if self._steps is None else [self._steps]

    def send(self) -> None:
        """Have the device tell the host what was marked, when it gets there."""
        if self._steps is not None:
            self._seen.copy_(self._steps, non_blocking=True)

    def note(self, step: int, scalars: Mapping[str, Tensor]) -> None:
        """`mark` and `send`."""
        self.mark(step, scalars)
        self.send()

    def any_seen(self) -> bool:
        """Whether the host knows of one. It may be some steps behind the device."""
        return bool((self._seen != _NEVER).any())

    def first(self, group: Any = None) -> tuple[str, int] | None:
        """Name and step of the first one, over all processes of the group, which call this together; None where there
        is none. Waits for the device."""
        steps = torch.full((len(self.names),), _NEVER) if self._steps is None else self._steps.cpu()
        if group is not None:
            dist.all_reduce(steps, dist.ReduceOp.MIN, group=group)
        found = min(zip(steps.tolist(), range(len(self.names)), strict=True))
        return None if found[0] == _NEVER else (self.names[found[1]], found[0])


def all_finite(tensors: Iterable[Tensor], group: Any = None) -> bool:
    """Whether every number in all of them is one, in all processes of the group, which call this together. What is no
    plain tensor of floats is passed over. Waits for the device."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        local = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
        if type(local) is Tensor and local.is_floating_point() and local.numel():
            by_device.setdefault(local.device, []).append(local)
    largest = [torch.stack(torch._foreach_norm(one, float("inf"))) for one in by_device.values()]
    finite = torch.tensor([all(bool(torch.isfinite(norms).all()) for norms in largest)], dtype=torch.int32)
    if group is not None:
        dist.all_reduce(finite, dist.ReduceOp.MIN, group=group)
    return bool(finite)
