"""One copy of all weights in bfloat16 for each pass, in the place of a cast for each weight.

Under autocast each layer casts its weights, and on the way back their gradients, which are then added up one by one:
for a network of small layers nearly half of all kernels of a step. Here the flat weights are cast at once, layers read
views of that, and gradients come back as one flat tensor. Numbers are those of autocast. Not in the paper.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .flat import FlatOptimizer, Place
from .norms import KINDS
from .passes import Passes

LAYERS = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
"""Layers that compute in bfloat16 under autocast. On CUDA the norms of `norms` do so as well."""


class HalfPasses(Passes):
    """`Passes` of a module whose weights are a flat optimiser's; gradients add up in its flat gradients. `plain` is the
    module as it is inside of what Accelerate made of it.

    Not for gradient checkpointing, which computes blocks again with the weights that the module has by then.
    """

    def __init__(
        self, module: nn.Module, plain: nn.Module, backward: Callable[[Tensor], None], optimizer: FlatOptimizer
    ) -> None:
        super().__init__(module, backward)
        self.weights, self.gradients = optimizer.weights, optimizer.gradients
        kinds = (*LAYERS, *KINDS.values()) if self.weights.is_cuda else LAYERS
        layers = [layer for layer in plain.modules() if isinstance(layer, kinds)]
        halved = {id(weight) for layer in layers for weight in layer.parameters(recurse=False)}
        names = {weight: name for name, weight in plain.named_parameters() if id(weight) in halved}
        placed = [(place, names[weight]) for weight, place in optimizer.places.items() if weight in names]
        placed.sort(key=lambda pair: pair[0].offset)
        self.places, self.names = [place for place, _ in placed], [name for _, name in placed]
        self.sizes, self.chosen = _cut(self.places, self.weights.numel())

    def run(self, arguments: Sequence[Tensor], parts: int) -> None:
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
    """Sizes of pieces that make up `end` numbers, and which of them are the places'; others lie between."""
    sizes: list[int] = []
    chosen: list[int] = []
    at = 0
    for place in places:
        sizes += [place.offset - at] * (place.offset > at)
        chosen.append(len(sizes))
        sizes.append(place.shape.numel())
        at = place.offset + place.shape.numel()
    return sizes + [end - at] * (end > at), chosen
