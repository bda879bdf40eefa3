"""Detects when a loss, gradient or weight becomes NaN or infinite.

Nothing can be learned after that, and a state saved later would replace a good one. Not in the paper.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

_NEVER = 2**62


class FirstFaults:
    """The first step in which each of some scalars was NaN or infinite. It is noted on the device and copied to the
    host later, so nothing waits."""

    def __init__(self, names: Iterable[str], device: torch.device) -> None:
        self.names = tuple(names)
        self._steps: Tensor | None = None
        self._seen = torch.full((len(self.names),), _NEVER, pin_memory=device.type == "cuda")

    @torch.no_grad()
    def mark(self, step: int | Tensor, scalars: Mapping[str, Tensor]) -> None:
        """Note the scalars [] of a step. All names must be given, as tensors on the device; the step's number may be
        there too. A running sum over steps also works, because it is NaN or infinite from the first bad step on."""
        values = torch.stack([scalars[name].detach().float() for name in self.names])
        if self._steps is None:
            self._steps = torch.full(values.shape, _NEVER, device=values.device)
        new = ~torch.isfinite(values) & (self._steps == _NEVER)
        if isinstance(step, Tensor):  # `masked_fill_` would read its value on the host and wait for the device
            self._steps.copy_(torch.where(new, step, self._steps))
        else:
            self._steps.masked_fill_(new, step)

    @property
    def marked(self) -> list[Tensor]:
        """The tensors that `mark` writes to, if there are any."""
        return [] if self._steps is None else [self._steps]

    def send(self) -> None:
        """Copy what was marked to the host, when the device gets there."""
        if self._steps is not None:
            self._seen.copy_(self._steps, non_blocking=True)

    def note(self, step: int, scalars: Mapping[str, Tensor]) -> None:
        """`mark` and `send`."""
        self.mark(step, scalars)
        self.send()

    def any_seen(self) -> bool:
        """Whether the host knows of a bad step. It may be some steps behind the device."""
        return bool((self._seen != _NEVER).any())

    def first(self, group: Any = None) -> tuple[str, int] | None:
        """Name and step of the first fault over all processes of the group, which must call this together; None if
        there is none. Waits for the device."""
        steps = torch.full((len(self.names),), _NEVER) if self._steps is None else self._steps.cpu()
        if group is not None:
            dist.all_reduce(steps, dist.ReduceOp.MIN, group=group)
        found = min(zip(steps.tolist(), range(len(self.names)), strict=True))
        return None if found[0] == _NEVER else (self.names[found[1]], found[0])


def all_finite(tensors: Iterable[Tensor], group: Any = None) -> bool:
    """Whether all tensors are finite in all processes of the group, which must call this together. Anything but a plain
    tensor of floats is ignored. Waits for the device."""
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
