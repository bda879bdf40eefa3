"""A brake on drift: a new latent's statistics are pulled toward the anchor's. Ours, and off unless asked for."""

import torch
from torch import Tensor

_SMALLEST_SPREAD = 1e-5


def match_statistics(latent: Tensor, anchor: Tensor | None, strength: float) -> Tensor:
    """AdaIN (Huang and Belongie 2017, arXiv 1703.06868, Eq. 8) with the anchor as the style, as far as `strength` says.

    `latent` and `anchor` are [B, C, h, w], float32; each channel's mean and spread over its cells go `strength` of the
    way (0: the latent itself, to the bit; 1: all of it) to the anchor's. Without an anchor nothing is changed.
    """
    if strength == 0 or anchor is None:
        return latent
    mean, spread = _statistics(latent)
    anchor_mean, anchor_spread = _statistics(anchor.to(latent))
    matched = (latent - mean) / spread * anchor_spread + anchor_mean
    return torch.lerp(latent, matched, strength)


def _statistics(latent: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, [B, C, 1, 1]."""
    mean = latent.mean(dim=(-2, -1), keepdim=True)
    return mean, latent.std(dim=(-2, -1), keepdim=True, correction=0).clamp(min=_SMALLEST_SPREAD)
