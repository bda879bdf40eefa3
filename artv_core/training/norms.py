"""Norms that stay in bfloat16 on a GPU, as they do on a CPU.

Under autocast CUDA casts the input of a norm to float32, and everything up to the next convolution is float32 too. That
doubles the memory traffic, for numbers that the convolution rounds to bfloat16 anyway. Here only means and deviations
are float32, inside the kernel. Scales and shifts are float32 weights that are rounded for use, like those of
convolutions. Not in the paper.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BFloat16GroupNorm(nn.GroupNorm):
    """A group norm whose output has the type of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, ...] in and out."""
        return in_bfloat16(self, x) if x.is_cuda and x.dtype == torch.bfloat16 else super().forward(x)


class BFloat16LayerNorm(nn.LayerNorm):
    """A layer norm whose output has the type of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] in and out."""
        return in_bfloat16(self, x) if x.is_cuda and x.dtype == torch.bfloat16 else super().forward(x)


def in_bfloat16(norm: nn.GroupNorm | nn.LayerNorm, x: Tensor) -> Tensor:
    """The norm of x, computed in bfloat16 whatever autocast is set to."""
    weight, bias = (None if parameter is None else parameter.to(x.dtype) for parameter in (norm.weight, norm.bias))
    with torch.autocast(x.device.type, enabled=False):
        if isinstance(norm, nn.GroupNorm):
            return F.group_norm(x, norm.num_groups, weight, bias, norm.eps)
        return F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)


KINDS: dict[type[nn.Module], type[nn.Module]] = {nn.GroupNorm: BFloat16GroupNorm, nn.LayerNorm: BFloat16LayerNorm}


def keep_norms_in_bfloat16(module: nn.Module, keep: bool = True) -> None:
    """Make all norms of a module stay in bfloat16, or (`keep` false) follow autocast again. Weights and their names do
    not change."""
    kinds = KINDS if keep else {half: plain for plain, half in KINDS.items()}
    for layer in module.modules():
        if type(layer) in kinds:
            layer.__class__ = kinds[type(layer)]
