"""Drift correction: give a new latent the anchor's statistics, or its still cells the anchor's values. Not in the
paper."""

import torch
import torch.nn.functional as F
from torch import Tensor

_SMALLEST_SPREAD = 1e-5
_COPIED = (0.3, 0.6)
"""Up to the first value of the mask a cell does not return to the anchor; from the second on it does."""


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


def return_to_anchor(latent: Tensor, mask: Tensor | None, anchor: Tensor | None, reach: float) -> Tensor:
    """Let what stands still take the anchor's value, where the frame shows nearly the same.

    So ground that a moving thing has left becomes what it was, instead of staying as the network drew it. `latent` and
    `anchor` are [B, C, h, w], float32; `mask` is the copy mask [B, 1, h, w]. A cell returns if the mask copies it and
    its eight neighbours, and all of them are at most `reach` away from the anchor; from there to twice as far it takes
    a share. Distances are root mean squares over the channels, in latents of standard deviation 1. The neighbours keep
    the edges of things from being taken for ground. Reach 0 returns the latent unchanged, bit for bit, as does a
    missing mask or anchor.
    """
    if reach == 0 or mask is None or anchor is None:
        return latent
    anchor = anchor.to(latent).expand_as(latent)
    away = (latent - anchor).square().mean(dim=1, keepdim=True).sqrt()
    least, most = _COPIED
    copied = ((-_largest_around(-mask) - least) / (most - least)).clamp(0, 1)
    near = (2 - _largest_around(away) / reach).clamp(0, 1)
    return torch.lerp(latent, anchor, (copied * near).to(latent))


def _largest_around(cells: Tensor) -> Tensor:
    """The largest value of each cell and its neighbours, [B, 1, h, w]."""
    return F.max_pool2d(cells, kernel_size=3, stride=1, padding=1)


def _statistics(latent: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, [B, C, 1, 1]."""
    mean = latent.mean(dim=(-2, -1), keepdim=True)
    return mean, latent.std(dim=(-2, -1), keepdim=True, correction=0).clamp(min=_SMALLEST_SPREAD)
