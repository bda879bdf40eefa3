"""Drift correction: move a new latent's statistics toward the anchor's. Off by default. Not in the paper."""

import torch
from torch import Tensor

_SMALLEST_SPREAD = 1e-5


def match_statistics(latent: Tensor, anchor: Tensor | None, strength: float) -> Tensor:
    """AdaIN (Huang and Belongie 2017, arXiv 1703.06868, Eq. 8) with the anchor as the style, blended by `strength`.

    `latent` and `anchor` are [B, C, h, w], float32. Strength 1 gives each channel the anchor's mean and standard
    deviation; 0 returns the latent unchanged, bit for bit; values between interpolate. Without an anchor nothing
    changes.
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
