"""One bfloat16 copy of all weights for each pass, instead of one cast for each weight.

Under autocast each layer casts its weights, and in the backward pass their gradients, which are then added up one by
one. For a network of small layers these are nearly half of all kernels in a step. Here the flat weights are cast once,
layers read views of the copy, and gradients come back as one flat tensor. The results are those of autocast. Not in the
paper.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .flat import FlatOptimizer, Place
from .norms import KINDS
from .passes import Passes

LAYERS = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
"""Layers that compute in bfloat16 under autocast. On CUDA the norms of `norms` do so too."""


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
        kinds = (*LAYERS, *KINDS.values()) if self.weights.is_cuda else LAYERS
        layers = [layer for layer in plain.modules() if isinstance(layer, kinds)]
        halved = {id(weight) for layer in layers for weight in layer.parameters(recurse=False)}
        names = {weight: name for name, weight in plain.named_parameters() if id(weight) in halved}
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
