"""Triton kernels for rows of channels: layer norm with its gradients, and sums over all rows.

PyTorch's layer norm takes two kernels for its gradients, one of which is slow in bfloat16, and its sums for gradients
of biases are slow too. These kernels read each row once. Sums are in float32. Not in the paper.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096  # numbers that a program holds at once
MOST_CHUNKS = 512
PROGRAMS = 2048  # as many as keep a large GPU busy
SUM_ROWS, SUM_CHANNELS = 32, 128  # size of a tile of `sum_of_rows`


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`layer_norm(x)` for x [..., C], contiguous, whose rows fit into one tile. Computed in float32, returned in the
    dtype of x."""
    return layer_norm_kept(x, weight, bias, eps)[0]


def layer_norm_kept(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Like `layer_norm`, but also returns what the backward pass needs: means and inverse standard deviations of rows
    [2, rows]."""
    rows, channels, tile_rows, block = _rows(x)
    out = torch.empty_like(x)
    stats = torch.empty(2, rows, device=x.device, dtype=torch.float32)
    _layer_norm[(triton.cdiv(rows, tile_rows),)](
        x, weight, bias, out, stats, rows, channels, eps, tile_rows=tile_rows, block=block, num_warps=8
    )
    return out, stats


def layer_norm_backward(x: Tensor, slope: Tensor, weight: Tensor, stats: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias. `slope` is the gradient of the output, contiguous like x; `stats` come from
    `layer_norm_kept`."""
    rows, channels, tile_rows, block = _rows(x)
    chunk = triton.cdiv(triton.cdiv(rows, MOST_CHUNKS), tile_rows) * tile_rows
    chunks = triton.cdiv(rows, chunk)
    out = torch.empty_like(x)
    sums = torch.empty(chunks, 2, channels, device=x.device, dtype=torch.float32)
    _layer_norm_backward[(chunks,)](
        x, slope, weight, stats, out, sums, rows, channels, chunk, tile_rows=tile_rows, block=block, num_warps=8
    )
    to_weight, to_bias = _folded(sums, weight.dtype)
    return out, to_weight, to_bias


def sum_of_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x [..., C], contiguous, summed over all but the last dimension: [C] in `dtype`."""
    channels = x.shape[-1]
    rows, blocks = x.numel() // channels, triton.cdiv(channels, SUM_CHANNELS)
    chunks = min(MOST_CHUNKS, triton.cdiv(PROGRAMS, blocks))
    chunk = triton.cdiv(triton.cdiv(rows, chunks), SUM_ROWS) * SUM_ROWS
    chunks = triton.cdiv(rows, chunk)
    sums = torch.empty(chunks, channels, device=x.device, dtype=torch.float32)
    _sum_rows[(chunks, blocks)](x, sums, rows, channels, chunk, tile_rows=SUM_ROWS, tile_channels=SUM_CHANNELS)
    return _folded(sums, dtype)


def _rows(x: Tensor) -> tuple[int, int, int, int]:
    """(rows, channels, rows in a tile, channels in a tile)."""
    channels = x.shape[-1]
    block = triton.next_power_of_2(channels)
    return x.numel() // channels, channels, max(1, min(32, TILE // block)), block


def _folded(sums: Tensor, dtype: torch.dtype) -> Tensor:
    """Partial sums [chunks, ...] added up."""
    out = torch.empty(sums.shape[1:], device=sums.device, dtype=dtype)
    tile = 32
    _fold[(triton.cdiv(out.numel(), tile),)](sums, out, sums.shape[0], out.numel(), tile_rows=128, tile_channels=tile)
    return out


@triton.jit(do_not_specialize=["rows"])
def _layer_norm(x, weight, bias, out, stats, rows, channels, eps, tile_rows: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * tile_rows + tl.arange(0, tile_rows)
    c = tl.arange(0, block)
    known = c < channels
    there = (row < rows)[:, None] & known[None, :]
    at = row[:, None] * channels + c[None, :]
    value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    mean = tl.sum(value, 1) / channels
    distance = tl.where(there, value - mean[:, None], 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(distance * distance, 1) / channels + eps)
    scale = tl.load(weight + c, mask=known, other=0.0).to(tl.float32)
    shift = tl.load(bias + c, mask=known, other=0.0).to(tl.float32)
    normed = distance * inverse[:, None] * scale[None, :] + shift[None, :]
    tl.store(out + at, normed.to(out.dtype.element_ty), mask=there)
    tl.store(stats + row, mean, mask=row < rows)
    tl.store(stats + rows + row, inverse, mask=row < rows)


@triton.jit(do_not_specialize=["rows", "chunk"])
def _layer_norm_backward(
    x, slope, weight, stats, out, sums, rows, channels, chunk, tile_rows: tl.constexpr, block: tl.constexpr
):
    """For the rows of a chunk: the gradients of x, and the sums of those of weight and bias."""
    k = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, block)
    known = c < channels
    scale = tl.load(weight + c, mask=known, other=0.0).to(tl.float32)
    to_weight = tl.zeros((tile_rows, block), tl.float32)
    to_bias = tl.zeros((tile_rows, block), tl.float32)
    for start in range(k * chunk, tl.minimum((k + 1) * chunk, rows), tile_rows):
        row = start + tl.arange(0, tile_rows)
        there = (row < rows)[:, None] & known[None, :]
        at = row[:, None] * channels + c[None, :]
        mean = tl.load(stats + row, mask=row < rows, other=0.0)
        inverse = tl.load(stats + rows + row, mask=row < rows, other=0.0)
        value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
        back = tl.load(slope + at, mask=there, other=0.0).to(tl.float32)
        normed = tl.where(there, (value - mean[:, None]) * inverse[:, None], 0.0)
        to_weight += back * normed
        to_bias += back
        back = back * scale[None, :]
        by_mean = tl.sum(back, 1) / channels
        by_deviation = tl.sum(back * normed, 1) / channels
        back = (back - by_mean[:, None] - normed * by_deviation[:, None]) * inverse[:, None]
        tl.store(out + at, back.to(out.dtype.element_ty), mask=there)
    to = sums + k * 2 * channels + c
    tl.store(to, tl.sum(to_weight, 0), mask=known)
    tl.store(to + channels, tl.sum(to_bias, 0), mask=known)


@triton.jit(do_not_specialize=["rows", "chunk"])
def _sum_rows(x, sums, rows, channels, chunk, tile_rows: tl.constexpr, tile_channels: tl.constexpr):
    """For each channel: the sum over the rows of a chunk."""
    k = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * tile_channels + tl.arange(0, tile_channels)
    known = c < channels
    total = tl.zeros((tile_rows, tile_channels), tl.float32)
    for start in range(k * chunk, tl.minimum((k + 1) * chunk, rows), tile_rows):
        row = start + tl.arange(0, tile_rows)
        there = (row < rows)[:, None] & known[None, :]
        total += tl.load(x + row[:, None] * channels + c[None, :], mask=there, other=0.0).to(tl.float32)
    tl.store(sums + k * channels + c, tl.sum(total, 0), mask=known)


@triton.jit(do_not_specialize=["chunks"])
def _fold(sums, out, chunks, count, tile_rows: tl.constexpr, tile_channels: tl.constexpr):
    c = tl.program_id(0) * tile_channels + tl.arange(0, tile_channels)
    total = tl.zeros((tile_rows, tile_channels), tl.float32)
    for start in range(0, chunks, tile_rows):
        k = start + tl.arange(0, tile_rows)
        there = (k < chunks)[:, None] & (c < count)[None, :]
        total += tl.load(sums + k[:, None] * count + c[None, :], mask=there, other=0.0)
    tl.store(out + c, tl.sum(total, 0).to(out.dtype.element_ty), mask=c < count)
