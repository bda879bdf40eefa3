"""Layers whose biases get their gradients from a fused sum.

PyTorch's sum over all rows is slow in bfloat16, and a UNet makes one for each bias. Not in the paper.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.fused import add_bias_gradient


class FusedBiasLinear(nn.Linear):
    """A linear layer with such a bias."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        if not _applies(self, x):
            return super().forward(x)
        return add_bias_gradient(F.linear(x, self.weight, self.bias.detach()), self.bias, -1)


class FusedBiasConv2d(nn.Conv2d):
    """A convolution with such a bias."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, h, w] -> [B, out_channels, h', w']."""
        if self.bias is None or not _applies(self, x):
            return super().forward(x)
        return add_bias_gradient(self._conv_forward(x, self.weight, self.bias.detach()), self.bias, 1)


KINDS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: FusedBiasLinear, nn.Conv2d: FusedBiasConv2d}


def fuse_biases(module: nn.Module) -> None:
    """Make a module's linear layers and convolutions with trained biases such layers. Weights and their names do not
    change."""
    for layer in module.modules():
        bias = getattr(layer, "bias", None)
        if type(layer) in KINDS and isinstance(bias, Tensor) and bias.requires_grad:
            layer.__class__ = KINDS[type(layer)]


def _applies(layer: nn.Module, x: Tensor) -> bool:
    return x.is_cuda and torch.is_grad_enabled() and not torch.compiler.is_compiling()
