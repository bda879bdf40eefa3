"""The anchor encoder: turns a frame's latent into tokens for the anchor's cross-attention. Its design is not in the
paper."""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import AnchorConfig
from .pooling import pooled_to


class AnchorEncoder(nn.Module):
    """Encodes latent patches, pooled to a grid of fixed size for any latent size, plus one token for the whole
    latent."""

    def __init__(self, anchor: AnchorConfig, in_channels: int, operations: Any = torch.nn):
        super().__init__()
        self.patch_size = anchor.patch_size
        self.grid = anchor.grid
        self.num_tokens = anchor.num_tokens
        self.patches = operations.Conv2d(in_channels, anchor.width, anchor.patch_size, stride=anchor.patch_size)
        self.positions = operations.Embedding(anchor.num_tokens, anchor.width)
        self.norm = operations.LayerNorm(anchor.width)
        self.mlp = nn.Sequential(
            operations.Linear(anchor.width, 4 * anchor.width),
            nn.GELU(),
            operations.Linear(4 * anchor.width, anchor.width),
        )
        self.norm_out = operations.LayerNorm(anchor.width)

    def forward(self, anchor_latent: Tensor) -> Tensor:
        """Anchor latent [B, C, h, w] of any size -> tokens [B, grid * grid + 1, width]: the cells row by row, then the
        token for the whole latent."""
        patches = self.patches(self._pad(anchor_latent))
        patches = pooled_to(patches, self.grid)
        tokens = rearrange(patches, "b c h w -> b (h w) c")
        tokens = torch.cat([tokens, tokens.mean(dim=1, keepdim=True)], dim=1)
        positions = self.positions(torch.arange(self.num_tokens, device=tokens.device))
        tokens = tokens + positions.to(tokens.dtype)
        tokens = tokens + self.mlp(self.norm(tokens))
        return self.norm_out(tokens)

    def _pad(self, latent: Tensor) -> Tensor:
        """Repeat the last row and column up to a multiple of the patch size."""
        bottom, right = (-side % self.patch_size for side in latent.shape[2:])
        if not bottom and not right:
            return latent
        return F.pad(latent, (0, right, 0, bottom), mode="replicate")
