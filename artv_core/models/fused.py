"""Fused GPU kernels: group norm with SiLU, layer norm, gated GELU, and sums for gradients of biases. Not in the paper.

`fuse` marks the layers that may run fused, `fuse_for_training` those that may run fused while gradients are needed. A
marked layer still runs unfused where the kernels do not apply: on a CPU, inside `torch.compile`, and if its weights are
not on the input's device. Fused results differ from unfused ones by rounding.
"""

import functools
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

logger = logging.getLogger(__name__)

LARGEST_GROUP = 128  # channels of a group that the kernels hold at once
MOST_CHANNELS = 2048  # of a layer norm, likewise
FEWEST_ROWS = 512  # a sum of fewer takes one kernel of PyTorch's, not two
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def fuse(module: nn.Module, device: torch.device, dtype: torch.dtype) -> bool:
    """Mark the layers of `module` that may run fused, if the kernels work on this device and dtype. Returns whether
    they work. Parameters, names and classes do not change."""
    able = can_fuse(device, dtype)
    _mark(module, able)
    return able


def unfuse(module: nn.Module) -> None:
    """Make all layers of `module` run unfused."""
    _mark(module, False)


def fuse_for_training(module: nn.Module, device: torch.device) -> bool:
    """Like `fuse`, for bfloat16 while gradients are needed."""
    able = can_fuse_training(device)
    _mark(module, able, "may_train_fused")
    return able


def _mark(module: nn.Module, may_fuse: bool, name: str = "may_fuse") -> None:
    for layer in module.modules():
        if isinstance(layer, nn.GroupNorm | nn.LayerNorm) or hasattr(layer, name):
            setattr(layer, name, may_fuse)


@functools.cache
def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the Triton kernels compile here and agree with PyTorch (tried once, on a small map), and the allocator's
    memory works for them in a graph."""
    if device.type != "cuda" or dtype not in DTYPES:
        return False
    if torch.cuda.get_allocator_backend() != "native":
        return False  # Triton refuses memory of cudaMallocAsync while a graph is captured
    try:
        return _kernels_agree(device, dtype)
    except Exception as error:  # whatever fails in Triton, PyTorch's own kernels still work
        logger.info("fused kernels are not used: %s: %s", type(error).__name__, str(error).strip().split("\n")[0])
        return False


@functools.cache
def can_fuse_training(device: torch.device) -> bool:
    """Like `can_fuse`, with gradients, in bfloat16."""
    if not can_fuse(device, torch.bfloat16):
        return False
    try:
        return _gradients_agree(device)
    except Exception as error:  # as in `can_fuse`
        logger.info("fused gradients are not used: %s: %s", type(error).__name__, str(error).strip().split("\n")[0])
        return False


def norm_silu(norm: nn.Module, x: Tensor) -> Tensor:
    """`silu(norm(x))` of a map [B, C, h, w], fused where that applies."""
    if _norm_may_fuse(norm, x) or _norm_may_train_fused(norm, x):
        return _fused_norm(norm, x, silu=True)
    return F.silu(norm(x))


def norm_only(norm: nn.Module, x: Tensor) -> Tensor:
    """`norm(x)` of a map [B, C, h, w], fused where that applies."""
    if _norm_may_fuse(norm, x) or _norm_may_train_fused(norm, x):
        return _fused_norm(norm, x, silu=False)
    return norm(x)


def cell_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """The layer norm `norm(x)` of cells [..., C], fused where that applies."""
    if not ((_may_fuse(norm, x) or _may_train_fused(norm, x)) and _cells_are_suited(norm, x)):
        return norm(x)
    given: Any = norm
    if torch.is_grad_enabled():
        return FusedLayerNorm.apply(x, given.weight, given.bias, given.eps)
    from . import triton_rows

    with _launched_on(x):
        return triton_rows.layer_norm(x, given.weight, given.bias, given.eps)


def add_bias_gradient(out: Tensor, bias: Tensor, dim: int) -> Tensor:
    """`out` itself, where a layer has added `bias` [C] along dimension `dim` (-1 of rows, 1 of a map) without a
    gradient: gives the bias that gradient, as a fused sum where that applies."""
    return BiasGradient.apply(out, bias, dim)


def gelu_gate(x: Tensor, may_fuse: bool, may_train_fused: bool = False) -> Tensor:
    """The first half of x [..., 2 C] times GELU (exact) of the second half: [..., C]. Fused where that applies."""
    if may_train_fused and _training_on_gpu(x) and x.is_contiguous():
        return FusedGate.apply(x)
    if may_fuse and _inference_on_gpu(x) and x.is_contiguous():
        from . import triton_kernels

        with _launched_on(x):
            return triton_kernels.gelu_gate(x)
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


class FusedNorm(torch.autograd.Function):
    """`silu(group_norm(x))`, or `group_norm(x)`, with gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
        """x [B, C, h, w] in channels-last order."""
        from . import triton_kernels

        with _launched_on(x):
            out, scales, stats = triton_kernels.group_norm_silu_kept(x, weight, bias, groups, eps, silu)
        ctx.save_for_backward(x, weight, scales, stats)
        ctx.silu = silu
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, weight and bias."""
        from . import triton_kernels

        x, weight, scales, stats = ctx.saved_tensors
        slope = slopes[0].contiguous(memory_format=torch.channels_last)
        with _launched_on(x):
            found = triton_kernels.group_norm_silu_backward(x, slope, weight, scales, stats, ctx.silu)
        return (*found, None, None, None)


class FusedGate(torch.autograd.Function):
    """`gelu_gate` with gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """x [..., 2 C], contiguous."""
        from . import triton_kernels

        ctx.save_for_backward(x)
        with _launched_on(x):
            return triton_kernels.gelu_gate(x)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        """The gradient of x."""
        from . import triton_kernels

        (x,) = ctx.saved_tensors
        with _launched_on(x):
            return triton_kernels.gelu_gate_backward(x, slopes[0].contiguous())


class FusedLayerNorm(torch.autograd.Function):
    """`layer_norm(x)` with gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """x [..., C], contiguous."""
        from . import triton_rows

        with _launched_on(x):
            out, stats = triton_rows.layer_norm_kept(x, weight, bias, eps)
        ctx.save_for_backward(x, weight, stats)
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, weight and bias."""
        from . import triton_rows

        x, weight, stats = ctx.saved_tensors
        with _launched_on(x):
            found = triton_rows.layer_norm_backward(x, slopes[0].contiguous(), weight, stats)
        return (*found, None)


class BiasGradient(torch.autograd.Function):
    """`add_bias_gradient`."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, bias: Tensor, dim: int) -> Tensor:
        """`out` [..., C], or [B, C, h, w] with `dim` 1, as it is."""
        ctx.dim, ctx.dtype = dim, bias.dtype
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of `out` and bias."""
        return slopes[0], summed_rows(slopes[0].movedim(ctx.dim, -1), ctx.dtype), None


def summed_rows(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows [..., C], summed over all but the last dimension: [C] in `dtype`. Fused where that applies."""
    if not (rows.is_cuda and rows.is_contiguous() and rows.numel() >= FEWEST_ROWS * rows.shape[-1]):
        return rows.sum(dim=tuple(range(rows.dim() - 1)), dtype=dtype)
    from . import triton_rows

    with _launched_on(rows):
        return triton_rows.sum_of_rows(rows, dtype)


def _launched_on(x: Tensor) -> AbstractContextManager[Any]:
    """Makes x's device the current one, where Triton launches."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _fused_norm(norm: Any, x: Tensor, silu: bool) -> Tensor:
    if torch.is_grad_enabled():
        return FusedNorm.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps, silu)
    from . import triton_kernels

    with _launched_on(x):
        return triton_kernels.group_norm_silu(x, norm.weight, norm.bias, norm.num_groups, norm.eps, silu)


def _norm_may_fuse(norm: Any, x: Tensor) -> bool:
    return _may_fuse(norm, x) and _norm_is_suited(norm, x)


def _norm_may_train_fused(norm: Any, x: Tensor) -> bool:
    return _may_train_fused(norm, x) and _norm_is_suited(norm, x)


def _may_fuse(norm: Any, x: Tensor) -> bool:
    return getattr(norm, "may_fuse", False) and _inference_on_gpu(x)


def _may_train_fused(norm: Any, x: Tensor) -> bool:
    return getattr(norm, "may_train_fused", False) and _training_on_gpu(x)


def _norm_is_suited(norm: Any, x: Tensor) -> bool:
    return (
        x.is_contiguous(memory_format=torch.channels_last)
        and norm.weight is not None
        and norm.weight.device == x.device
        and norm.num_channels <= LARGEST_GROUP * norm.num_groups
    )


def _cells_are_suited(norm: Any, x: Tensor) -> bool:
    return (
        x.is_contiguous()
        and norm.weight is not None
        and norm.weight.device == x.device
        and norm.bias is not None
        and x.shape[-1:] == norm.normalized_shape
        and x.shape[-1] <= MOST_CHANNELS
    )


def _inference_on_gpu(x: Tensor) -> bool:
    return x.is_cuda and x.dtype in DTYPES and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _training_on_gpu(x: Tensor) -> bool:
    return x.is_cuda and x.dtype == torch.bfloat16 and torch.is_grad_enabled() and not torch.compiler.is_compiling()


@torch.no_grad()
def _kernels_agree(device: torch.device, dtype: torch.dtype) -> bool:
    from . import triton_kernels, triton_rows

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 80, 5, 13, generator=generator).to(device, dtype).to(memory_format=torch.channels_last)
    weight, bias = (torch.randn(80, generator=generator).to(device, dtype) for _ in range(2))
    normed, rows = F.group_norm(x, 8, weight, bias, 1e-5), x.permute(0, 2, 3, 1).contiguous()
    value, gate = rows.chunk(2, dim=-1)
    with torch.cuda.device(device):
        pairs = [
            (triton_kernels.group_norm_silu(x, weight, bias, 8, 1e-5, silu=False), normed),
            (triton_kernels.group_norm_silu(x, weight, bias, 8, 1e-5, silu=True), F.silu(normed)),
            (triton_rows.layer_norm(rows, weight, bias, 1e-5), F.layer_norm(rows, (80,), weight, bias, 1e-5)),
            (triton_kernels.gelu_gate(rows), value * F.gelu(gate)),
        ]
    same = all(torch.allclose(got.float(), plain.float(), rtol=0.02, atol=0.02) for got, plain in pairs)
    if not same:
        logger.warning("fused kernels are not used: they give other results than PyTorch's on %s", device)
    return same


def _gradients_agree(device: torch.device) -> bool:
    """Compare outputs and gradients of norms, gate and biases in bfloat16 with PyTorch's in float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 80, 5, 13, generator=generator).to(device, torch.bfloat16).to(memory_format=torch.channels_last)
    weight, bias = (torch.randn(80, generator=generator).to(device) for _ in range(2))
    rows = x.permute(0, 2, 3, 1).contiguous()

    def gate(h: Tensor) -> Tensor:
        value, half = h.chunk(2, dim=-1)
        return value * F.gelu(half)

    def shift(h: Tensor, bias: Tensor) -> Tensor:
        return add_bias_gradient(h + bias.detach().to(h.dtype), bias, -1)

    tall = torch.randn(FEWEST_ROWS + 9, 80, generator=generator).to(device, torch.bfloat16)
    tries: list[tuple[Any, Any, list[Tensor]]] = [
        (FusedGate.apply, gate, [rows]),
        (_cells_normed(FusedLayerNorm.apply), _cells_normed(_plain_layer_norm), [rows, weight, bias]),
        (shift, torch.add, [tall, bias]),
    ]
    for silu in (False, True):
        fused = functools.partial(_normed, FusedNorm.apply, silu)
        tries.append((fused, functools.partial(_normed, _plain_norm, silu), [x, weight, bias]))
    off = [_gap(_with_gradients(fused, given), _with_gradients(plain, _floats(given))) for fused, plain, given in tries]
    same = max(off) < 0.02
    if not same:
        logger.warning("fused gradients are not used: they are %.2g off PyTorch's on %s", max(off), device)
    return same


def _normed(norm: Any, silu: bool, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return norm(x, weight, bias, 8, 1e-5, silu)


def _plain_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
    normed = F.group_norm(x, groups, weight, bias, eps)
    return F.silu(normed) if silu else normed


def _cells_normed(norm: Any) -> Callable[..., Tensor]:
    return lambda x, weight, bias: norm(x, weight, bias, 1e-5)


def _plain_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def _floats(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.float() for tensor in tensors]


@torch.enable_grad()
def _with_gradients(layer: Any, given: list[Tensor]) -> list[Tensor]:
    """A layer's output and the gradients of its inputs, for an output gradient that differs in every element
    and is the same in bfloat16."""
    leaves = [tensor.detach().requires_grad_() for tensor in given]
    out = layer(*leaves)
    slope = torch.arange(out.numel(), device=out.device).float().sin().view(out.shape).bfloat16().to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, slope)]


def _gap(first: list[Tensor], second: list[Tensor]) -> float:
    """The largest relative distance between corresponding tensors of two lists."""
    pairs = zip(first, second, strict=True)
    return max(float((a.float() - b.float()).norm() / b.float().norm().clamp(min=1e-6)) for a, b in pairs)
