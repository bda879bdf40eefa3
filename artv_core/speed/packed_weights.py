"""Weights stored in the layout that the CPU's kernels read, so that they are not rearranged at every call. Not in the
paper.

oneDNN reads weights in blocks, whose shape depends on the processor and on the input. Results change only by rounding.
The operators are those that `torch.compile` uses. Callers ask `can_pack` whether this build of torch has them.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_OPS: Any = torch.ops.mkldnn
_REORDER: Any = getattr(torch._C._nn, "mkldnn_reorder_conv2d_weight", None)

FEWEST_PRODUCTS = 6_000_000
"""A linear layer in float32 with fewer multiplications is faster with plain weights: a call of oneDNN takes about 15
microseconds longer (one core of an AMD EPYC)."""


def pack_weights(module: nn.Module) -> nn.Module:
    """Replace the convolutions and linear layers of a module on the CPU. Changes the module and returns it. It can then
    only be run and saved: its weights are no longer parameters, and cannot be moved or changed."""
    _replace(module)
    return module


@functools.cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether packed weights of this dtype work with this build of torch on this processor."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    try:
        with torch.inference_mode():
            convolution, linear = nn.Conv2d(4, 4, 3, padding=1, dtype=dtype), nn.Linear(4, 4, dtype=dtype)
            image, rows = torch.ones(1, 4, 5, 5, dtype=dtype), torch.ones(3, 4, dtype=dtype)
            same = torch.allclose(PackedConv2d(convolution)(image), convolution(image), rtol=1e-2, atol=1e-2)
            return same and torch.allclose(PackedLinear(linear, 0)(rows), linear(rows), rtol=1e-2, atol=1e-2)
    except (RuntimeError, NotImplementedError, AttributeError, TypeError):
        return False


class PackedLayer(nn.Module):
    """A layer whose weights are packed for one input size. Another input size repacks them once."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.weight: Tensor = layer.weight.detach()
        self.bias: Tensor | None = None if layer.bias is None else layer.bias.detach()
        self.packed_for: Any = None

    def plain_weight(self) -> Tensor:
        """The weight in its usual layout."""
        return self.weight.to_dense() if self.weight.is_mkldnn else self.weight

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.plain_weight()
        if self.bias is not None:
            destination[f"{prefix}bias"] = self.bias


class PackedConv2d(PackedLayer):
    """`nn.Conv2d` with packed weights."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer)
        assert not isinstance(layer.padding, str)
        self.geometry = (list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Like `nn.Conv2d`."""
        if x.shape != self.packed_for:
            weight = self.plain_weight().contiguous(memory_format=torch.channels_last).to_mkldnn()
            self.weight, self.packed_for = _REORDER(weight, *self.geometry, list(x.shape)), x.shape
        return _OPS._convolution_pointwise(x, self.weight, self.bias, *self.geometry, "none", [], "")


class PackedLinear(PackedLayer):
    """`nn.Linear` with packed weights, or in float32 with plain ones, for fewer multiplications than `fewest`."""

    def __init__(self, layer: nn.Linear, fewest: int = FEWEST_PRODUCTS) -> None:
        super().__init__(layer)
        self.fewest = fewest

    def forward(self, x: Tensor) -> Tensor:
        """Like `nn.Linear`."""
        rows = x.shape[:-1].numel()
        if rows != self.packed_for:
            weight = self.plain_weight()
            packs = weight.dtype != torch.float32 or rows * weight.numel() >= self.fewest
            self.weight, self.packed_for = _OPS._reorder_linear_weight(weight, rows) if packs else weight, rows
        if not self.weight.is_mkldnn:
            return F.linear(x, self.weight, self.bias)
        return _OPS._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def _replace(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if type(child) is nn.Conv2d and not isinstance(child.padding, str):
            setattr(module, name, PackedConv2d(child))
        elif type(child) is nn.Linear:
            setattr(module, name, PackedLinear(child))
        else:
            _replace(child)
