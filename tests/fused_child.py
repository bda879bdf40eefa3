"""Run by `test_fused.py` with TRITON_INTERPRET=1, which has Triton's kernels run on a CPU: prints the largest
differences from PyTorch's layers, one line for each case."""

import torch
import torch.nn.functional as F

from artv_core.models import triton_kernels

MAPS = [
    (2, 80, 5, 13, 8),
    (1, 320, 6, 7, 32),
    (2, 64, 1, 1, 32),
    (1, 96, 20, 19, 8),
    (1, 256, 3, 3, 2),  # groups as large as they may be
]


def main() -> None:
    torch.manual_seed(0)
    for batch, channels, height, width, groups in MAPS:
        # Away from zero, where sums of squares lose digits.
        x = (torch.randn(batch, channels, height, width) * 3 + 5).to(memory_format=torch.channels_last)
        weight, bias = torch.randn(channels), torch.randn(channels)
        plain = F.group_norm(x.double(), groups, weight.double(), bias.double(), 1e-5)
        for silu, expected in ((False, plain), (True, F.silu(plain))):
            got = triton_kernels.group_norm_silu(x, weight, bias, groups, 1e-5, silu)
            assert got.is_contiguous(memory_format=torch.channels_last)
            print(float((got - expected).abs().max()))
    rows = torch.randn(3, 7, 100)
    value, gate = rows.chunk(2, dim=-1)
    print(float((triton_kernels.gelu_gate(rows) - value * F.gelu(gate)).abs().max()))


if __name__ == "__main__":
    main()
