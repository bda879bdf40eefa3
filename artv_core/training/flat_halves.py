"""Passes whose weights are flat: all are cast to bfloat16 in one kernel, and gradients come back as one flat tensor.

As `halves`, with fewer kernels still. Not in the paper.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .flat import FlatOptimizer, Place
from .halves import halved
from .passes import Passes


class HalfPasses(Passes):
    """`Passes` of a module whose weights belong to a flat optimiser; gradients are added to its flat gradients. `plain`
    is the module without Accelerate's wrapper.

    Cannot be used with gradient checkpointing, which recomputes blocks with the module's own weights instead of the
    copies.
    """

    def __init__(
        self, module: nn.Module, plain: nn.Module, backward: Callable[[Tensor], None], optimizer: FlatOptimizer
    ) -> None:
        super().__init__(module, backward)
        self.weights, self.gradients = optimizer.weights, optimizer.gradients
        names = {weight: name for name, weight in halved(plain, self.weights.is_cuda).items()}
        placed = [(place, names[weight]) for weight, place in optimizer.places.items() if weight in names]
        placed.sort(key=lambda pair: pair[0].offset)
        self.places, self.names = [place for place, _ in placed], [name for _, name in placed]
        self.sizes, self.chosen = _cut(self.places, self.weights.numel())

    def run(self, arguments: Sequence[Tensor], parts: float) -> None:
        """As `Passes.run`."""
        whole = self.weights.detach().bfloat16().requires_grad_()
        pieces = whole.split(self.sizes)
        halves = [place.shaped(pieces[index]) for place, index in zip(self.places, self.chosen, strict=True)]
        loss, scalars = functional_call(self.module, dict(zip(self.names, halves, strict=True)), tuple(arguments))
        self.backward(loss / parts)
        gradient = whole.grad
        assert gradient is not None
        with torch.no_grad():
            self.gradients.add_(gradient)
        self.sums.add({"loss": loss, **scalars}, parts)


def _cut(places: Sequence[Place], end: int) -> tuple[list[int], list[int]]:
    """The sizes of pieces that make up `end` numbers, and the index of each place's piece. The other pieces fill the
    gaps."""
    sizes: list[int] = []
    chosen: list[int] = []
    at = 0
    for place in places:
        sizes += [place.offset - at] * (place.offset > at)
        chosen.append(len(sizes))
        sizes.append(place.shape.numel())
        at = place.offset + place.shape.numel()
    return sizes + [end - at] * (end > at), chosen
