"""Weights stored as 8-bit floats, to save memory. Layers compute in the dtype of their input. Not in the paper."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FP8 = torch.float8_e4m3fn
SMALLEST = 4096
"""Weights with fewer elements stay unchanged, as there is little to save."""


def store_fp8(module: nn.Module) -> nn.Module:
    """Store the weights of a module's convolutions and linear layers as float8 (e4m3), with a float32 scale for each
    output channel. Changes the module and returns it. It can then be run, moved and saved, but not trained."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d | nn.Linear):
            if child.weight.numel() >= SMALLEST:
                stored = StoredConv2d(child) if isinstance(child, nn.Conv2d) else StoredLinear(child)
                setattr(module, name, stored)
        else:
            store_fp8(child)
    return module


class StoredLayer(nn.Module):
    """A layer whose weight is float8 [out, ...] times a scale [out, 1, ...]."""

    weight: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        largest = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
        scale = torch.where(largest > 0, largest / torch.finfo(FP8).max, torch.ones_like(largest))
        self.register_buffer("weight", (weight / scale).to(FP8))
        self.register_buffer("scale", scale)
        self.bias = layer.bias

    def plain_weight(self, dtype: torch.dtype) -> Tensor:
        """The weight in the dtype of the computation. float16 has no number as small as many scales."""
        wide = torch.float32 if dtype == torch.float16 else dtype
        return (self.weight.to(wide) * self.scale.to(wide)).to(dtype)


class StoredConv2d(StoredLayer):
    """`nn.Conv2d` with a float8 weight."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer)
        self.geometry: Any = (layer.stride, layer.padding, layer.dilation, layer.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Like `nn.Conv2d`."""
        return F.conv2d(x, self.plain_weight(x.dtype), self.bias, *self.geometry)


class StoredLinear(StoredLayer):
    """`nn.Linear` with a float8 weight."""

    def forward(self, x: Tensor) -> Tensor:
        """Like `nn.Linear`."""
        return F.linear(x, self.plain_weight(x.dtype), self.bias)
