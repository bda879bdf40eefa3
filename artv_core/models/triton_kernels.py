"""Triton kernels: group norm with SiLU in channels-last order, and a feed-forward layer's gate, with their gradients.

PyTorch's group norm has no channels-last kernel: it converts the layout and back, and SiLU is one more pass. These
kernels read a map twice and write it once, and do the same in the backward pass. Sums are in float32. Moments are
combined as in Chan et al. 1979. Not in the paper.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, CHANNELS = 32, 64  # size of a tile
CHUNK, MOST_CHUNKS = 128, 256  # cells per program for the moments, and most chunks: larger maps get larger chunks
MOMENT_ROWS = 128  # the moments of a chunk in one tile
GATE_ROWS, GATE_CHANNELS = 8, 128


def group_norm_silu(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
    """`silu(group_norm(x))`, or `group_norm(x)`, for x [B, C, h, w] in channels-last order. A group's
    channels must fit into one tile. Computed in float32, returned in the dtype of x."""
    return group_norm_silu_kept(x, weight, bias, groups, eps, silu)[0]


def group_norm_silu_kept(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Like `group_norm_silu`, but also returns what the backward pass needs: factors and shifts of channels [B, 2, C],
    and means and inverse standard deviations of groups [B, 2, G]."""
    batch, channels, height, width = x.shape
    cells = height * width
    chunk, chunks, blocks = _cut(cells, channels)
    moments = torch.empty(batch, chunks, 2, channels, device=x.device, dtype=torch.float32)
    scales = torch.empty(batch, 2, channels, device=x.device, dtype=torch.float32)
    stats = torch.empty(batch, 2, groups, device=x.device, dtype=torch.float32)
    out = torch.empty_like(x, memory_format=torch.channels_last)
    _moments[(batch, chunks, blocks)](
        x, moments, channels, cells, chunk, chunks, tile_rows=MOMENT_ROWS, tile_channels=CHANNELS
    )
    _scales[(batch, groups)](
        moments, weight, bias, scales, stats, channels, channels // groups, cells, chunk, chunks, eps,
        at_once=8 if chunks <= 8 else 32, most=triton.next_power_of_2(channels // groups),
    )  # fmt: skip
    tiles = (triton.cdiv(cells, ROWS), batch, blocks)  # only the first grid dimension may exceed 65,535
    _apply[tiles](x, out, scales, channels, cells, silu=silu, tile_rows=ROWS, tile_channels=CHANNELS)
    return out, scales, stats


def group_norm_silu_backward(
    x: Tensor, slope: Tensor, weight: Tensor, scales: Tensor, stats: Tensor, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias. `slope` is the gradient of the output, in channels-last order like x; `scales`
    and `stats` come from `group_norm_silu_kept`."""
    batch, channels, height, width = x.shape
    cells, groups = height * width, stats.shape[2]
    chunk, chunks, blocks = _cut(cells, channels)
    sums = torch.empty(batch, chunks, 2, channels, device=x.device, dtype=torch.float32)
    totals = torch.empty(batch, 2, channels, device=x.device, dtype=torch.float32)
    pulls = torch.empty(batch, 2, channels, device=x.device, dtype=torch.float32)
    out = torch.empty_like(x, memory_format=torch.channels_last)
    _slopes[(batch, chunks, blocks)](
        x, slope, scales, stats, sums, channels, channels // groups, groups, cells, chunk, chunks,
        silu=silu, tile_rows=ROWS, tile_channels=CHANNELS,
    )  # fmt: skip
    _pulls[(batch, groups)](
        sums, weight, stats, totals, pulls, channels, channels // groups, groups, cells, chunks,
        most=triton.next_power_of_2(channels // groups),
    )  # fmt: skip
    tiles = (triton.cdiv(cells, ROWS), batch, blocks)
    _apply_backward[tiles](
        x, slope, out, scales, pulls, channels, cells, silu=silu, tile_rows=ROWS, tile_channels=CHANNELS
    )
    to_bias, to_weight = totals.sum(dim=0)
    return out, to_weight.to(weight.dtype), to_bias.to(weight.dtype)


def _cut(cells: int, channels: int) -> tuple[int, int, int]:
    """(cells per chunk, number of chunks, number of channel blocks)."""
    chunk = max(CHUNK, triton.cdiv(triton.cdiv(cells, MOST_CHUNKS), ROWS) * ROWS)
    return chunk, triton.cdiv(cells, chunk), triton.cdiv(channels, CHANNELS)


def gelu_gate(x: Tensor) -> Tensor:
    """The first half of x [..., 2 C], contiguous, times GELU (exact) of the second half: [..., C]."""
    channels = x.shape[-1] // 2
    out = torch.empty(*x.shape[:-1], channels, device=x.device, dtype=x.dtype)
    rows, tiles = _gate_tiles(out)
    _gate[tiles](x, out, rows, channels, tile_rows=GATE_ROWS, tile_channels=GATE_CHANNELS)
    return out


def gelu_gate_backward(x: Tensor, slope: Tensor) -> Tensor:
    """The gradient of x [..., 2 C] from the gradient `slope` [..., C] of `gelu_gate(x)`. Both must be contiguous."""
    out = torch.empty_like(x)
    rows, tiles = _gate_tiles(slope)
    _gate_backward[tiles](x, slope, out, rows, slope.shape[-1], tile_rows=GATE_ROWS, tile_channels=GATE_CHANNELS)
    return out


def _gate_tiles(x: Tensor) -> tuple[int, tuple[int, int]]:
    """The rows of x [..., C], and how many tiles they make in either direction."""
    rows = x.numel() // x.shape[-1]
    return rows, (triton.cdiv(rows, GATE_ROWS), triton.cdiv(x.shape[-1], GATE_CHANNELS))


@triton.jit(do_not_specialize=["cells", "chunk", "chunks"])
def _moments(x, moments, channels, cells, chunk, chunks, tile_rows: tl.constexpr, tile_channels: tl.constexpr):
    """For each channel over the cells of a chunk: the mean, and the sum of squared distances from it."""
    b, k = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = tl.program_id(2) * tile_channels + tl.arange(0, tile_channels)
    count = 0.0
    mean = tl.zeros((tile_channels,), tl.float32)
    squares = tl.zeros((tile_channels,), tl.float32)
    for start in range(k * chunk, tl.minimum((k + 1) * chunk, cells), tile_rows):
        row = start + tl.arange(0, tile_rows)
        there = (row < cells)[:, None] & (c < channels)[None, :]
        at = x + (b * cells + row)[:, None] * channels + c[None, :]
        value = tl.load(at, mask=there, other=0.0).to(tl.float32)
        new = tl.minimum(tile_rows, cells - start).to(tl.float32)
        new_mean = tl.sum(value, 0) / new
        distance = tl.where(there, value - new_mean[None, :], 0.0)
        step = new_mean - mean
        total = count + new
        squares += tl.sum(distance * distance, 0) + step * step * (count * new / total)
        mean += step * (new / total)
        count = total
    to = moments + (b * chunks + k) * 2 * channels + c
    tl.store(to, mean, mask=c < channels)
    tl.store(to + channels, squares, mask=c < channels)


@triton.jit(do_not_specialize=["width", "cells", "chunk", "chunks"])
def _scales(
    moments, weight, bias, scales, stats, channels, width, cells, chunk, chunks, eps,
    at_once: tl.constexpr, most: tl.constexpr,
):  # fmt: skip
    """For one group of `width` channels: the factor and the shift of each channel."""
    b, g = tl.program_id(0).to(tl.int64), tl.program_id(1)
    j = tl.arange(0, most)
    c = g * width + j
    total = (cells * width).to(tl.float32)
    weighted = tl.zeros((at_once, most), tl.float32)
    for start in range(0, chunks, at_once):
        k = start + tl.arange(0, at_once)
        there = (k < chunks)[:, None] & (j < width)[None, :]
        count = tl.minimum(chunk, cells - k * chunk).to(tl.float32)[:, None]
        at = moments + ((b * chunks + k) * 2 * channels)[:, None] + c[None, :]
        weighted += tl.where(there, count * tl.load(at, mask=there, other=0.0), 0.0)
    mean = tl.sum(tl.sum(weighted, 1), 0) / total
    squares = tl.zeros((at_once, most), tl.float32)
    for start in range(0, chunks, at_once):
        k = start + tl.arange(0, at_once)
        there = (k < chunks)[:, None] & (j < width)[None, :]
        count = tl.minimum(chunk, cells - k * chunk).to(tl.float32)[:, None]
        at = moments + ((b * chunks + k) * 2 * channels)[:, None] + c[None, :]
        distance = tl.load(at, mask=there, other=0.0) - mean
        inside = tl.load(at + channels, mask=there, other=0.0)
        squares += tl.where(there, inside + count * distance * distance, 0.0)
    variance = tl.sum(tl.sum(squares, 1), 0) / total
    mask, groups = j < width, tl.num_programs(1)
    tl.store(stats + b * 2 * groups + g, mean)
    tl.store(stats + (b * 2 + 1) * groups + g, 1.0 / tl.sqrt(variance + eps))
    factor = tl.load(weight + c, mask=mask, other=0.0).to(tl.float32) / tl.sqrt(variance + eps)
    shift = tl.load(bias + c, mask=mask, other=0.0).to(tl.float32) - mean * factor
    tl.store(scales + b * 2 * channels + c, factor, mask=mask)
    tl.store(scales + (b * 2 + 1) * channels + c, shift, mask=mask)


@triton.jit(do_not_specialize=["cells"])
def _apply(x, out, scales, channels, cells, silu: tl.constexpr, tile_rows: tl.constexpr, tile_channels: tl.constexpr):
    b = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)
    c = tl.program_id(2) * tile_channels + tl.arange(0, tile_channels)
    there = (row < cells)[:, None] & (c < channels)[None, :]
    at = (b * cells + row)[:, None] * channels + c[None, :]
    factor = tl.load(scales + b * 2 * channels + c, mask=c < channels, other=0.0)
    shift = tl.load(scales + (b * 2 + 1) * channels + c, mask=c < channels, other=0.0)
    value = tl.load(x + at, mask=there, other=0.0).to(tl.float32) * factor[None, :] + shift[None, :]
    if silu:
        value = value / (1.0 + tl.exp(-value))
    tl.store(out + at, value.to(out.dtype.element_ty), mask=there)


@triton.jit
def _gate_tile(rows, channels, tile_rows: tl.constexpr, tile_channels: tl.constexpr):
    """The row [R, 1] and the channel [1, C] of each number in a program's tile, and whether it exists [R, C]."""
    row = tl.program_id(0).to(tl.int64) * tile_rows + tl.arange(0, tile_rows)
    c = tl.program_id(1) * tile_channels + tl.arange(0, tile_channels)
    return row[:, None], c[None, :], (row < rows)[:, None] & (c < channels)[None, :]


@triton.jit(do_not_specialize=["rows"])
def _gate(x, out, rows, channels, tile_rows: tl.constexpr, tile_channels: tl.constexpr):
    row, c, there = _gate_tile(rows, channels, tile_rows, tile_channels)
    at = x + row * 2 * channels + c
    value = tl.load(at, mask=there, other=0.0).to(tl.float32)
    gate = tl.load(at + channels, mask=there, other=0.0).to(tl.float32)
    gelu = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(out + row * channels + c, (value * gelu).to(out.dtype.element_ty), mask=there)


@triton.jit
def _through_silu(slope, x, factor, shift):
    """The gradient of SiLU's input `x * factor + shift` from the gradient of its output."""
    z = x * factor[None, :] + shift[None, :]
    s = 1.0 / (1.0 + tl.exp(-z))
    return slope * s * (1.0 + z * (1.0 - s))


@triton.jit(do_not_specialize=["cells", "chunk", "chunks"])
def _slopes(
    x, slope, scales, stats, sums, channels, width, groups, cells, chunk, chunks,
    silu: tl.constexpr, tile_rows: tl.constexpr, tile_channels: tl.constexpr,
):  # fmt: skip
    """For each channel over the cells of a chunk: the sum of the norm's output gradients, and the sum of their products
    with the distance of x from its group's mean."""
    b, k = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = tl.program_id(2) * tile_channels + tl.arange(0, tile_channels)
    known = c < channels
    factor = tl.load(scales + b * 2 * channels + c, mask=known, other=0.0)
    shift = tl.load(scales + (b * 2 + 1) * channels + c, mask=known, other=0.0)
    mean = tl.load(stats + b * 2 * groups + c // width, mask=known, other=0.0)
    plain = tl.zeros((tile_rows, tile_channels), tl.float32)
    product = tl.zeros((tile_rows, tile_channels), tl.float32)
    for start in range(k * chunk, tl.minimum((k + 1) * chunk, cells), tile_rows):
        row = start + tl.arange(0, tile_rows)
        there = (row < cells)[:, None] & known[None, :]
        at = (b * cells + row)[:, None] * channels + c[None, :]
        value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
        back = tl.load(slope + at, mask=there, other=0.0).to(tl.float32)
        if silu:
            back = _through_silu(back, value, factor, shift)
        plain += back
        product += back * (value - mean[None, :])
    to = sums + (b * chunks + k) * 2 * channels + c
    tl.store(to, tl.sum(plain, 0), mask=known)
    tl.store(to + channels, tl.sum(product, 0), mask=known)


@triton.jit(do_not_specialize=["width", "groups", "cells", "chunks"])
def _pulls(sums, weight, stats, totals, pulls, channels, width, groups, cells, chunks, most: tl.constexpr):
    """For one group of one map: the gradients of its channels' bias and weight, and the part of x's gradient that goes
    through the mean and deviation, as a factor and a shift."""
    b, g = tl.program_id(0).to(tl.int64), tl.program_id(1)
    j = tl.arange(0, most)
    c = g * width + j
    mask = j < width
    plain = tl.zeros((most,), tl.float32)
    product = tl.zeros((most,), tl.float32)
    for k in range(0, chunks):
        at = sums + (b * chunks + k) * 2 * channels + c
        plain += tl.load(at, mask=mask, other=0.0)
        product += tl.load(at + channels, mask=mask, other=0.0)
    mean = tl.load(stats + b * 2 * groups + g)
    inverse = tl.load(stats + (b * 2 + 1) * groups + g)
    product = product * inverse
    tl.store(totals + b * 2 * channels + c, plain, mask=mask)
    tl.store(totals + (b * 2 + 1) * channels + c, product, mask=mask)
    scale = tl.load(weight + c, mask=mask, other=0.0).to(tl.float32)
    count = (cells * width).to(tl.float32)
    by_mean = tl.sum(plain * scale, 0) / count
    by_deviation = tl.sum(product * scale, 0) / count
    factor = -inverse * inverse * by_deviation
    shift = -inverse * by_mean - mean * factor
    tl.store(pulls + b * 2 * channels + c, tl.zeros((most,), tl.float32) + factor, mask=mask)
    tl.store(pulls + (b * 2 + 1) * channels + c, tl.zeros((most,), tl.float32) + shift, mask=mask)


@triton.jit(do_not_specialize=["cells"])
def _apply_backward(
    x, slope, out, scales, pulls, channels, cells,
    silu: tl.constexpr, tile_rows: tl.constexpr, tile_channels: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)
    c = tl.program_id(2) * tile_channels + tl.arange(0, tile_channels)
    known = c < channels
    there = (row < cells)[:, None] & known[None, :]
    at = (b * cells + row)[:, None] * channels + c[None, :]
    factor = tl.load(scales + b * 2 * channels + c, mask=known, other=0.0)
    shift = tl.load(scales + (b * 2 + 1) * channels + c, mask=known, other=0.0)
    pull = tl.load(pulls + b * 2 * channels + c, mask=known, other=0.0)
    push = tl.load(pulls + (b * 2 + 1) * channels + c, mask=known, other=0.0)
    value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    back = tl.load(slope + at, mask=there, other=0.0).to(tl.float32)
    if silu:
        back = _through_silu(back, value, factor, shift)
    back = back * factor[None, :] + value * pull[None, :] + push[None, :]
    tl.store(out + at, back.to(out.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["rows"])
def _gate_backward(x, slope, out, rows, channels, tile_rows: tl.constexpr, tile_channels: tl.constexpr):
    row, c, there = _gate_tile(rows, channels, tile_rows, tile_channels)
    at = row * 2 * channels + c
    value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    gate = tl.load(x + at + channels, mask=there, other=0.0).to(tl.float32)
    back = tl.load(slope + row * channels + c, mask=there, other=0.0).to(tl.float32)
    share = 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    density = 0.3989422804014327 * tl.exp(-0.5 * gate * gate)
    tl.store(out + at, (back * gate * share).to(out.dtype.element_ty), mask=there)
    tl.store(out + at + channels, (back * value * (share + gate * density)).to(out.dtype.element_ty), mask=there)
