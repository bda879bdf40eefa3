"""The moving average of what is trained (the paper keeps one; its decay is lost)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class MovingAverage:
    """Averages of a module's trainable parameters, under their names: `average = decay * average + (1 - decay) * now`.

    With decay 0 nothing is kept and the parameters stand for themselves. `device` "cpu" keeps averages in main memory,
    at the price of a transfer each step; sharded parameters are averaged where they are, shard by shard.
    """

    def __init__(self, module: nn.Module, decay: float, device: str = "model") -> None:
        self.decay = decay
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        sharded = any(isinstance(parameter, DTensor) for parameter in self.parameters.values())
        if device == "cpu" and sharded:
            raise ValueError('ema_device = "cpu" cannot hold sharded weights; their shards are small, leave it out')
        kept = self.parameters if decay else {}
        self.averages = {name: _copied(parameter, device) for name, parameter in kept.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are now."""
        if not self.averages:
            return
        averages = [_local(average) for average in self.averages.values()]
        now = [_local(self.parameters[name].detach()) for name in self.averages]
        if averages[0].device != now[0].device:
            now = [tensor.to(average.device) for tensor, average in zip(now, averages, strict=True)]
        torch._foreach_lerp_(averages, now, 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module has the averages as its parameters inside, and its own again afterwards, to the bit."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the module's parameters and the averages."""
        for name, average in self.averages.items():
            parameter, average = _local(self.parameters[name]), _local(average)
            now = parameter.clone()
            parameter.copy_(average)
            average.copy_(now)


def _copied(parameter: nn.Parameter, device: str) -> Tensor:
    copy = parameter.detach().clone()
    return copy.to("cpu") if device == "cpu" else copy


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
