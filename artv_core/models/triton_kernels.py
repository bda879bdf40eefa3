"""Triton kernels for inference: group norm with SiLU in channels-last order, and a feed-forward layer's gate.

PyTorch's group norm has no channels-last kernel: it copies there and back, and SiLU is one more pass. Here a map is
read twice and written once. Sums are in float32, and moments are combined by Chan et al. 1979. Not in the paper.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, CHANNELS = 32, 64  # of a tile
CHUNK, MOST_CHUNKS = 128, 256  # cells whose moments one program finds; chunks grow where there would be more than that
CHUNKS_AT_ONCE = 32
MOST_GROUP_CHANNELS = 128


def group_norm_silu(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
    """`silu(group_norm(x))`, or without SiLU, of x [B, C, h, w] in channels-last order; at most `MOST_GROUP_CHANNELS`
    channels a group. Computed in float32, returned as x is."""
    batch, channels, height, width = x.shape
    cells = height * width
    chunk = max(CHUNK, triton.cdiv(triton.cdiv(cells, MOST_CHUNKS), ROWS) * ROWS)
    chunks = triton.cdiv(cells, chunk)
    blocks = triton.cdiv(channels, CHANNELS)
    moments = torch.empty(batch, chunks, 2, channels, device=x.device, dtype=torch.float32)
    scales = torch.empty(batch, 2, channels, device=x.device, dtype=torch.float32)
    out = torch.empty_like(x, memory_format=torch.channels_last)
    _moments[(batch, chunks, blocks)](
        x, moments, channels, cells, chunk, chunks, tile_rows=ROWS, tile_channels=CHANNELS
    )
    _scales[(batch, groups)](
        moments, weight, bias, scales, channels, channels // groups, cells, chunk, chunks, eps,
        at_once=CHUNKS_AT_ONCE, most=MOST_GROUP_CHANNELS,
    )  # fmt: skip
    tiles = (triton.cdiv(cells, ROWS), batch, blocks)  # only the first may be above 65,535
    _apply[tiles](x, out, scales, channels, cells, silu=silu, tile_rows=ROWS, tile_channels=CHANNELS)
    return out


def gelu_gate(x: Tensor) -> Tensor:
    """The first half of x [..., 2 C], contiguous, times GELU (exact) of the second half: [..., C]."""
    channels = x.shape[-1] // 2
    out = torch.empty(*x.shape[:-1], channels, device=x.device, dtype=x.dtype)
    block = 1024
    _gate[(triton.cdiv(out.numel(), block),)](x, out, out.numel(), channels, block=block)
    return out


@triton.jit(do_not_specialize=["cells", "chunk", "chunks"])
def _moments(x, moments, channels, cells, chunk, chunks, tile_rows: tl.constexpr, tile_channels: tl.constexpr):
    """Mean and sum of squared distances from it, of each channel over the cells of a chunk."""
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
    moments, weight, bias, scales, channels, width, cells, chunk, chunks, eps, at_once: tl.constexpr, most: tl.constexpr
):
    """What each channel is multiplied by and what is added then, for one group of `width` channels."""
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
    mask = j < width
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


@triton.jit(do_not_specialize=["count"])
def _gate(x, out, count, channels, block: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    there = i < count
    at = x + (i // channels) * 2 * channels + i % channels
    value = tl.load(at, mask=there, other=0.0).to(tl.float32)
    gate = tl.load(at + channels, mask=there, other=0.0).to(tl.float32)
    gelu = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(out + i, (value * gelu).to(out.dtype.element_ty), mask=there)
