"""Weights kept as 8-bit floats, to fit a model into less memory; computed in what comes in. Ours."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FP8 = torch.float8_e4m3fn
SMALLEST = 4096
"""Weights of fewer numbers stay as they are: there is nothing to gain."""


def store_fp8(module: nn.Module) -> nn.Module:
    """Keep the weights of a module's convolutions and linear layers as float8 (e4m3) with a float32 scale for each
    output channel, in place; returns the module. It can then be applied, moved and saved, but not trained."""
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
        """As it is computed with."""
        return self.weight.to(dtype) * self.scale.to(dtype)


class StoredConv2d(StoredLayer):
    """`nn.Conv2d`, so kept."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer)
        self.geometry: Any = (layer.stride, layer.padding, layer.dilation, layer.groups)

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv2d`."""
        return F.conv2d(x, self.plain_weight(x.dtype), self.bias, *self.geometry)


class StoredLinear(StoredLayer):
    """`nn.Linear`, so kept."""

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Linear`."""
        return F.linear(x, self.plain_weight(x.dtype), self.bias)
