"""The moving average of the trained weights. The paper keeps one, but does not give its decay."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class MovingAverage:
    """Averages of a module's trainable parameters, under their names: `average = decay * average + (1 - decay) * now`.

    With decay 0 nothing is kept, and the parameters are used themselves. `device` "cpu" keeps the averages in main
    memory, at the cost of a transfer in each step. Sharded parameters are averaged shard by shard, where they are.
    """

    def __init__(self, module: nn.Module, decay: float, device: str = "model") -> None:
        self.decay = decay
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        sharded = any(isinstance(parameter, DTensor) for parameter in self.parameters.values())
        if device == "cpu" and sharded:
            raise ValueError(
                'ema_device = "cpu" does not work with sharded weights; leave it out, because each shard is small'
            )
        kept = self.parameters if decay else {}
        self.averages = {name: _copied(parameter, device) for name, parameter in kept.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Add the current parameters to the averages."""
        if not self.averages:
            return
        averages = [_local(average) for average in self.averages.values()]
        now = [_local(self.parameters[name].detach()) for name in self.averages]
        if averages[0].device != now[0].device:
            now = [tensor.to(average.device) for tensor, average in zip(now, averages, strict=True)]
        torch._foreach_lerp_(averages, now, 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the module's parameters are the averages; afterwards it has its own again, bit for bit."""
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
