"""Frames as 8-bit pixels, and masks as grey images."""

import numpy as np
import torch
from torch import Tensor

from ..files.finite import NotFiniteError, is_finite


def to_bytes(frame: Tensor, index: int) -> np.ndarray:
    """Convert a frame [3, H, W], floats in [0, 1] or uint8, to [H, W, 3] uint8. `index` is its index, for errors.

    Raises NotFiniteError on values that are infinite or not a number, and ValueError on another shape.
    """
    if frame.ndim != 3 or frame.shape[0] != 3:
        raise ValueError(f"a frame is {list(frame.shape)}, expected [3, height, width]")
    if frame.dtype != torch.uint8:
        if not is_finite(frame):
            raise NotFiniteError(index)
        frame = (frame.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return frame.cpu().permute(1, 2, 0).contiguous().numpy()


def mask_frames(mask: Tensor, height: int, width: int) -> Tensor:
    """Convert masks [T, 1, h, w] in [0, 1] to grey images [T, 3, height, width]. 1 (copied) is white. Cells are
    enlarged without blur."""
    enlarged = torch.nn.functional.interpolate(mask.float(), size=(height, width), mode="nearest-exact")
    return enlarged.clamp(0, 1).expand(-1, 3, -1, -1)
