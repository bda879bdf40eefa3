"""One bfloat16 copy of all weights for each pass, instead of one cast for each weight.

Under autocast each layer casts its weights, and in the backward pass their gradients, which are then added up one by
one. For a network of small layers these are nearly half of all kernels in a step. Here all weights are cast in a few
kernels and layers read the copies. The results are those of autocast. Not in the paper.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .norms import KINDS

LAYERS = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
"""Layers that compute in bfloat16 under autocast. On CUDA the norms of `norms` do so too."""


def halved(plain: nn.Module, on_gpu: bool) -> dict[str, nn.Parameter]:
    """The weights that layers of this module read in bfloat16 under autocast, by name."""
    kinds = (*LAYERS, *KINDS.values()) if on_gpu else LAYERS
    layers = [layer for layer in plain.modules() if isinstance(layer, kinds)]
    ids = {id(weight) for layer in layers for weight in layer.parameters(recurse=False)}
    return {name: weight for name, weight in plain.named_parameters() if id(weight) in ids}


class HalfCopies:
    """bfloat16 copies of a module's weights, and their gradients. `plain` is the module without Accelerate's wrapper.

    Copies keep their memory, so a CUDA graph can read them. Cannot be used with gradient checkpointing, like
    `HalfPasses`, nor if processes exchange gradients, which must belong to the weights themselves.
    """

    def __init__(self, plain: nn.Module) -> None:
        named = halved(plain, next(plain.parameters()).is_cuda)
        named = {name: weight for name, weight in named.items() if weight.dtype == torch.float32}
        self.names = list(named)
        self.weights: list[Tensor] = list(named.values())
        halves = [torch.empty_like(weight, dtype=torch.bfloat16) for weight in self.weights]
        self.copies = [half.requires_grad_(own.requires_grad) for half, own in zip(halves, self.weights, strict=True)]

    def call(self, module: nn.Module, arguments: Sequence[Tensor]) -> Any:
        """`module(*arguments)` with the copies, which are made again from the weights."""
        self._drop_gradients()  # a pass that ended with an error, or that could not be captured, left some
        with torch.no_grad():
            torch._foreach_copy_(self.copies, self.weights)
        return functional_call(module, dict(zip(self.names, self.copies, strict=True)), tuple(arguments))

    @torch.no_grad()
    def hand_over(self, first: bool = False) -> None:
        """Add the copies' gradients to those of the weights. With `first` they replace the weights' gradients, of which
        only the memory is used."""
        pairs = [(own, copy.grad) for own, copy in zip(self.weights, self.copies, strict=True) if copy.grad is not None]
        if pairs:
            joined = torch._foreach_copy_ if first else torch._foreach_add_
            joined([self._gradient(own, first) for own, _ in pairs], [grad for _, grad in pairs])
        self._drop_gradients()

    @staticmethod
    def _gradient(own: Tensor, empty: bool) -> Tensor:
        if own.grad is None:
            own.grad = torch.empty_like(own) if empty else torch.zeros_like(own)
        return own.grad

    def _drop_gradients(self) -> None:
        for copy in self.copies:
            copy.grad = None
