"""Layers in fewer GPU kernels, for inference: group norm with SiLU, gated GELU, and self-attention's projections.

`fuse` marks layers that may run so. A marked layer still runs the plain way wherever the fused one does not apply: on a
CPU, while gradients are needed, inside `torch.compile`, and where its weights are not on the input's device. Results
differ from the plain ones by rounding. Not in the paper.
"""

import functools
import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

logger = logging.getLogger(__name__)

LARGEST_GROUP = 128
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def fuse(module: nn.Module, device: torch.device, dtype: torch.dtype) -> bool:
    """Mark the layers of `module` that may run fused, if kernels for that device and dtype can be made. Returns whether
    they can. Parameters, names and classes stay as they are."""
    able = can_fuse(device, dtype)
    _mark(module, able)
    return able


def unfuse(module: nn.Module) -> None:
    """Have all layers of `module` run the plain way."""
    _mark(module, False)


def _mark(module: nn.Module, may_fuse: bool) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.GroupNorm) or hasattr(layer, "may_fuse"):
            layer.may_fuse = may_fuse  # type: ignore[assignment]


@functools.cache
def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether Triton's kernels can be compiled here and give what PyTorch gives (tried once, on a small map), with an
    allocator whose memory they can use in a graph."""
    if device.type != "cuda" or dtype not in DTYPES:
        return False
    if torch.cuda.get_allocator_backend() != "native":
        return False  # Triton refuses memory that cudaMallocAsync gives while a graph is captured
    try:
        return _kernels_agree(device, dtype)
    except Exception as error:  # whatever keeps Triton from working, PyTorch's own kernels are there
        logger.info("fused kernels are not used: %s: %s", type(error).__name__, str(error).strip().split("\n")[0])
        return False


def norm_silu(norm: nn.Module, x: Tensor) -> Tensor:
    """`silu(norm(x))` of a map [B, C, h, w]."""
    return _fused_norm(norm, x, silu=True) if _norm_may_fuse(norm, x) else F.silu(norm(x))


def norm_only(norm: nn.Module, x: Tensor) -> Tensor:
    """`norm(x)` of a map [B, C, h, w]."""
    return _fused_norm(norm, x, silu=False) if _norm_may_fuse(norm, x) else norm(x)


def gelu_gate(x: Tensor, may_fuse: bool) -> Tensor:
    """The first half of x [..., 2 C] times GELU (exact) of the other half: [..., C]."""
    if may_fuse and _inference_on_gpu(x) and x.is_contiguous():
        from . import triton_kernels

        with torch.cuda.device(x.device):  # Triton launches on the current one
            return triton_kernels.gelu_gate(x)
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


def _fused_norm(norm: Any, x: Tensor, silu: bool) -> Tensor:
    from . import triton_kernels

    with torch.cuda.device(x.device):  # Triton launches on the current one
        return triton_kernels.group_norm_silu(x, norm.weight, norm.bias, norm.num_groups, norm.eps, silu)


def _norm_may_fuse(norm: Any, x: Tensor) -> bool:
    return (
        getattr(norm, "may_fuse", False)
        and _inference_on_gpu(x)
        and x.is_contiguous(memory_format=torch.channels_last)
        and norm.weight is not None
        and norm.weight.device == x.device
        and norm.num_channels <= LARGEST_GROUP * norm.num_groups
    )


def _inference_on_gpu(x: Tensor) -> bool:
    return x.is_cuda and x.dtype in DTYPES and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


@torch.no_grad()
def _kernels_agree(device: torch.device, dtype: torch.dtype) -> bool:
    from . import triton_kernels

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 80, 5, 13, generator=generator).to(device, dtype).to(memory_format=torch.channels_last)
    weight, bias = (torch.randn(80, generator=generator).to(device, dtype) for _ in range(2))
    normed, rows = F.group_norm(x, 8, weight, bias, 1e-5), x.permute(0, 2, 3, 1).contiguous()
    value, gate = rows.chunk(2, dim=-1)
    with torch.cuda.device(device):
        pairs = [
            (triton_kernels.group_norm_silu(x, weight, bias, 8, 1e-5, silu=False), normed),
            (triton_kernels.group_norm_silu(x, weight, bias, 8, 1e-5, silu=True), F.silu(normed)),
            (triton_kernels.gelu_gate(rows), value * F.gelu(gate)),
        ]
    same = all(torch.allclose(got.float(), plain.float(), rtol=0.02, atol=0.02) for got, plain in pairs)
    if not same:
        logger.warning("fused kernels are not used: they give other results than PyTorch's on %s", device)
    return same
