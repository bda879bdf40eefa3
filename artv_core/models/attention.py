"""Stable Diffusion's spatial transformer, with an added cross-attention to the anchor."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import UNetConfig
from .expansion import Expansion, matched
from .fused import cell_norm, gelu_gate, norm_only

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one attention, each [B, heads, tokens, head_channels]."""


class TokenProjections(NamedTuple):
    """Keys and values of every cross-attention of a UNet, in the order of its modules. They are computed once per
    frame. Not in the paper."""

    text: list[KeysValues]
    anchor: list[KeysValues] | None


def zeroed(layer: nn.Module) -> Any:
    """Set all parameters of `layer` to zero, so that the branch that it ends adds nothing before training (as in
    ControlNet). Returns the layer."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class SpatialTransformer(nn.Module):
    """Residual transformer over the cells of a feature map, between two projections: linear layers (SD 2) or 1x1
    convolutions (SD 1). The two compute the same; their weights have different shapes."""

    def __init__(self, config: UNetConfig, channels: int, anchor_width: int | None, operations: Any = torch.nn):
        super().__init__()
        self.linear = config.linear_projections
        self.norm = operations.GroupNorm(config.norm_groups, channels, eps=1e-6)
        self.proj_in = self._projection(channels, operations)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, config.heads(channels), config.context_dim, anchor_width, operations)
            for _ in range(config.transformer_depth)
        )
        self.proj_out = zeroed(self._projection(channels, operations))

    def forward(self, x: Tensor, tokens: TokenProjections, expansion: Expansion | None = None) -> Tensor:
        """[B, C, h, w] of any size -> the same shape, with one batch entry for each branch."""
        height = x.shape[2]
        normed = norm_only(self.norm, x)
        cells = self.proj_in(_to_cells(normed)) if self.linear else _to_cells(self.proj_in(normed))
        for block in self.transformer_blocks:
            cells = block(cells, tokens, expansion)
        changes = _to_map(self.proj_out(cells), height) if self.linear else self.proj_out(_to_map(cells, height))
        x, changes = matched(x, changes, expansion)
        return x + changes

    def _projection(self, channels: int, operations: Any) -> Any:
        return operations.Linear(channels, channels) if self.linear else operations.Conv2d(channels, channels, 1)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to text (and anchor), feed-forward: each is residual, with a norm before it
    (SD)."""

    def __init__(
        self,
        channels: int,
        heads: int,
        context_dim: int,
        anchor_width: int | None,
        operations: Any = torch.nn,
    ):
        super().__init__()
        self.attn1 = SelfAttention(channels, heads, operations)
        self.ff = FeedForward(channels, operations)
        self.attn2 = CrossAttention(channels, heads, context_dim, anchor_width, operations)
        self.norm1 = operations.LayerNorm(channels)
        self.norm2 = operations.LayerNorm(channels)
        self.norm3 = operations.LayerNorm(channels)

    def forward(self, x: Tensor, tokens: TokenProjections, expansion: Expansion | None = None) -> Tensor:
        """[B, cells, C] -> the same shape, with one batch entry for each branch. Cross-attention differs between
        branches, so the batch is expanded before it."""
        x = x + self.attn1(cell_norm(self.norm1, x))
        if expansion is not None:
            x = expansion.full(x)
        x = x + self.attn2(cell_norm(self.norm2, x), tokens)
        return x + self.ff(cell_norm(self.norm3, x))


class SelfAttention(nn.Module):
    """Multi-head self-attention over a feature map's cells (SD's `attn1`)."""

    def __init__(self, channels: int, heads: int, operations: Any = torch.nn):
        super().__init__()
        self.heads = heads
        self.to_q = operations.Linear(channels, channels, bias=False)
        self.to_k = operations.Linear(channels, channels, bias=False)
        self.to_v = operations.Linear(channels, channels, bias=False)
        self.to_out = nn.ModuleList([operations.Linear(channels, channels)])
        self._joined: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[B, cells, C] -> the same shape."""
        queries, keys, values = (split_heads(part, self.heads) for part in self._project(x))
        return self.to_out[0](attend(queries, (keys, values)))

    def join(self) -> None:
        """Store the three weights one after another in memory, so that one matrix product computes queries, keys and
        values. They remain separate parameters and may be changed in place. For inference. Not in the paper."""
        layers = self._layers()
        if any(type(layer) is not nn.Linear for layer in layers):
            return
        self._joined = torch.cat([layer.weight.detach() for layer in layers])
        for layer, part in zip(layers, self._joined.chunk(3), strict=True):
            layer.weight.data = part

    def _project(self, x: Tensor) -> Sequence[Tensor]:
        joined, layers = self._joined, self._layers()
        unsuited = joined is None or torch.is_grad_enabled() or torch.compiler.is_compiling()
        if joined is None or unsuited or not _lie_in(joined, layers):
            return [layer(x) for layer in layers]
        return F.linear(x, joined).chunk(3, dim=-1)

    def _layers(self) -> list[Any]:
        return [self.to_q, self.to_k, self.to_v]


class CrossAttention(nn.Module):
    """Attention to text (SD's `attn2`), plus attention to the anchor.

    The anchor has its own keys and values and shares the queries, like the image branch of IP-Adapter. It also has its
    own zero-initialised output layer, which is not in the paper. `index` is this attention's position in
    `TokenProjections`; the UNet sets it.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        context_dim: int,
        anchor_width: int | None,
        operations: Any = torch.nn,
    ):
        super().__init__()
        self.index = 0
        self.heads = heads
        self.to_q = operations.Linear(channels, channels, bias=False)
        self.to_k = operations.Linear(context_dim, channels, bias=False)
        self.to_v = operations.Linear(context_dim, channels, bias=False)
        self.to_out = nn.ModuleList([operations.Linear(channels, channels)])
        if anchor_width is not None:
            self.anchor_to_k = operations.Linear(anchor_width, channels, bias=False)
            self.anchor_to_v = operations.Linear(anchor_width, channels, bias=False)
            self.anchor_to_out = zeroed(operations.Linear(channels, channels, bias=False))

    def project_text(self, context: Tensor) -> KeysValues:
        """Text tokens [B, L, context_dim] -> keys and values."""
        return split_heads(self.to_k(context), self.heads), split_heads(self.to_v(context), self.heads)

    def project_anchor(self, anchor_tokens: Tensor) -> KeysValues:
        """Anchor tokens [B, N, anchor_width] -> keys and values."""
        keys, values = self.anchor_to_k(anchor_tokens), self.anchor_to_v(anchor_tokens)
        return split_heads(keys, self.heads), split_heads(values, self.heads)

    def forward(self, x: Tensor, tokens: TokenProjections) -> Tensor:
        """[B, cells, C] -> the same shape."""
        queries = split_heads(self.to_q(x), self.heads)
        from_text = self.to_out[0](attend(queries, tokens.text[self.index]))
        if tokens.anchor is None:
            return from_text
        return from_text + self.anchor_to_out(attend(queries, tokens.anchor[self.index]))


class FeedForward(nn.Module):
    """Two linear layers, the first gated by GELU (SD's GEGLU), with four times the width in between."""

    def __init__(self, channels: int, operations: Any = torch.nn):
        super().__init__()
        # Index 1 is Stable Diffusion's dropout (rate 0). It stays so that the second layer has the key `net.2`.
        gated = GatedLinear(channels, 4 * channels, operations)
        self.net = nn.Sequential(gated, nn.Identity(), operations.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> the same shape."""
        return self.net(x)


class GatedLinear(nn.Module):
    """GEGLU: the first half of a linear layer's output times GELU (exact, not tanh) of the second half."""

    def __init__(self, in_channels: int, out_channels: int, operations: Any = torch.nn):
        super().__init__()
        self.proj = operations.Linear(in_channels, 2 * out_channels)
        self.may_fuse = False
        self.may_train_fused = False

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_channels] -> [..., out_channels]."""
        return gelu_gate(self.proj(x), self.may_fuse, self.may_train_fused)


# Shapes change in every layer, so without einops: where cells are few, it takes longer than the copy itself.


def _to_cells(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _to_map(cells: Tensor, height: int) -> Tensor:
    return cells.transpose(1, 2).unflatten(2, (height, -1))


def _lie_in(joined: Tensor, layers: Sequence[Any]) -> bool:
    """Whether the layers' weights are still parts of `joined`. A move to another device replaces them."""
    parts = zip(layers, joined.chunk(3), strict=True)
    return all(layer.weight.data_ptr() == part.data_ptr() and layer.weight.dtype == part.dtype for layer, part in parts)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, tokens, heads * d] -> [B, heads, tokens, d]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(queries: Tensor, keys_values: KeysValues) -> Tensor:
    """Scaled dot-product attention. Queries, keys and values have split heads; the output is joined, [B, tokens,
    heads * d]."""
    return _attended(queries, *keys_values).transpose(1, 2).flatten(2)


def _attended(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention, in float32 if a CPU trains in half precision: there the fused backward pass is several times slower in
    bfloat16 if there are few keys, as for text and anchor."""
    if not (queries.device.type == "cpu" and queries.requires_grad and queries.dtype in (torch.bfloat16, torch.half)):
        return F.scaled_dot_product_attention(queries, keys, values)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(queries.float(), keys.float(), values.float()).to(queries.dtype)
