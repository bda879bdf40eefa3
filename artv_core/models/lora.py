"""Low-rank changes of a UNet's linear layers (LoRA, Hu et al. 2021, arXiv 2106.09685).

A layer with weight W computes with W + U D, where D is [rank, inputs] and U [outputs, rank]. Training only D and U
takes less memory than training W, and a file of them is small. For sampling they are added to the weights. Not in the
ART-V paper.
"""

import math
from collections.abc import MutableMapping
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from .attention import SpatialTransformer
from .unet import UNet

DOWN, UP = "lora_down", "lora_up"
"""The names of D and U in a layer."""


class LowRankLinear(nn.Linear):
    """A linear layer with such a change."""

    lora_down: nn.Parameter
    lora_up: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        return super().forward(x) + F.linear(F.linear(x, self.lora_down), self.lora_up)


def changed_layers(unet: UNet) -> dict[str, nn.Linear]:
    """The layers that are changed, by name: the linear layers of all transformers, less those for the anchor, which
    Stable Diffusion does not have."""
    transformers = [name for name, module in unet.named_modules() if isinstance(module, SpatialTransformer)]
    return {
        name: layer
        for name, layer in unet.named_modules()
        if isinstance(layer, nn.Linear) and name.startswith(tuple(f"{place}." for place in transformers))
        if "anchor_" not in name
    }


def add_lora(unet: UNet, rank: int) -> None:
    """Give the UNet changes of this rank, which add nothing before training: D is random, U is zero."""
    for layer in changed_layers(unet).values():
        layer.__class__ = LowRankLinear
        changed = cast(LowRankLinear, layer)
        changed.lora_down = nn.Parameter(layer.weight.new_empty(rank, layer.in_features))
        changed.lora_up = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(changed.lora_down, a=math.sqrt(5))  # as PyTorch's linear layers begin


def merge_lora(state: MutableMapping[str, Tensor]) -> None:
    """Add the changes in a state dict to the weights that they belong to, which are replaced, and take them out. Each
    weight keeps its type."""
    for key in [key for key in state if key.endswith(f".{DOWN}")]:
        layer = key.removesuffix(DOWN)
        change = state.pop(layer + UP).float() @ state.pop(key).float()
        weight = state[f"{layer}weight"]
        state[f"{layer}weight"] = (weight.float() + change.to(weight.device)).to(weight.dtype)
