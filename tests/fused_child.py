"""Run by `test_fused.py` with TRITON_INTERPRET=1, which has Triton's kernels run on a CPU: prints the largest
differences from PyTorch's layers, one line for each case."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from artv_core.models import fused, triton_kernels, triton_rows

MAPS = [
    (2, 80, 5, 13, 8),
    (1, 160, 6, 7, 16),
    (2, 64, 1, 1, 32),
    (1, 96, 14, 19, 8),  # of more than one chunk
    (1, 256, 3, 3, 2),  # groups as large as they may be
]
ROWS = [(2, 7, 80), (3, 320), (1, 1, 64), (5, 1300), (2, 530, 48), (2, 700, 160)]


def main() -> None:
    torch.manual_seed(0)
    for index, (batch, channels, height, width, groups) in enumerate(MAPS):
        # Away from zero, where sums of squares lose digits.
        x = (torch.randn(batch, channels, height, width) * 3 + 5).to(memory_format=torch.channels_last)
        weight, bias = torch.randn(channels), torch.randn(channels)
        plain = F.group_norm(x.double(), groups, weight.double(), bias.double(), 1e-5)
        silu = index % 2 == 1
        got = triton_kernels.group_norm_silu(x, weight, bias, groups, 1e-5, silu)
        assert got.is_contiguous(memory_format=torch.channels_last)
        print(float((got - (F.silu(plain) if silu else plain)).abs().max()))
    rows = torch.randn(3, 7, 100)
    value, gate = rows.chunk(2, dim=-1)
    print(float((triton_kernels.gelu_gate(rows) - value * F.gelu(gate)).abs().max()))
    gradients()
    layer_norms()
    sums()


def layer_norms() -> None:
    """Relative differences of outputs and gradients, for rows that fill their tiles and such that do not."""
    for shape in ROWS:
        given = [torch.randn(shape) * 3 + 5, torch.randn(shape[-1]), torch.randn(shape[-1])]
        own = fused._with_gradients(fused._cells_normed(fused.FusedLayerNorm.apply), given)
        print(fused._gap(own, fused._with_gradients(fused._cells_normed(fused._plain_layer_norm), given)))


def sums() -> None:
    """Relative differences of sums of rows."""
    for shape in ROWS:
        x = torch.randn(shape) + 1
        print(fused._gap([triton_rows.sum_of_rows(x, torch.float32)], [x.double().flatten(0, -2).sum(dim=0)]))


def gradients() -> None:
    """Relative differences of outputs and gradients, those of weights and biases too; with SiLU where `main` had none,
    and the other way round."""
    for index, (batch, channels, height, width, groups) in enumerate(MAPS):
        if height * width == 1:
            continue  # groups of two numbers, which have next to no gradient
        x = (torch.randn(batch, channels, height, width) * 3 + 5).to(memory_format=torch.channels_last)
        given = [x, torch.randn(channels), torch.randn(channels)]
        silu = index % 2 == 0  # also for a batch of two
        own = fused._with_gradients(partial(_norm, fused.FusedNorm.apply, groups, silu), given)
        assert own[1].is_contiguous(memory_format=torch.channels_last)
        print(fused._gap(own, fused._with_gradients(partial(_norm, fused._plain_norm, groups, silu), given)))
    rows = torch.randn(3, 7, 100)
    plain = fused._with_gradients(lambda h: fused.gelu_gate(h, False), [rows])
    print(fused._gap(fused._with_gradients(fused.FusedGate.apply, [rows]), plain))
    print(float(not fused._gradients_agree(torch.device("cpu"))))


def _norm(norm: Any, groups: int, silu: bool, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return norm(x, weight, bias, groups, 1e-5, silu)


if __name__ == "__main__":
    main()
