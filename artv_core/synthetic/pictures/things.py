"""The pictures of things: read from the shipped sheet, and blurred to suit the size at which they are drawn.

Names and licence of the pictures are in NOTICE; `draw_things.py` made the sheet.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .names import THINGS

SHEET = Path(__file__).with_name("things.webp")
SHEET_COLUMNS = 12
THING_SIDE = 96
"""Pixels."""

MARGIN = 2
"""Empty pixels on each side of a picture."""

DRAWN_SIDES: tuple[float, ...] = (36 / 128, 46 / 128, 56 / 128, 66 / 128)
"""Sizes in frame sides for which there is a picture of matching sharpness."""


def read_things() -> Tensor:
    """All pictures, uint8 [K, 4, 96, 96]: red, green and blue multiplied by coverage, and coverage."""
    with Image.open(SHEET) as sheet:
        pixels = np.asarray(sheet.convert("RGBA"))
    rows = pixels.shape[0] // THING_SIDE
    cells = torch.from_numpy(pixels.copy()).unflatten(0, (rows, THING_SIDE)).unflatten(2, (SHEET_COLUMNS, THING_SIDE))
    return cells.permute(0, 2, 4, 1, 3).flatten(0, 1)[: len(THINGS)].contiguous()


def sharpness_levels(things: Tensor, size: int) -> Tensor:
    """Pictures [K, L, 4, 96, 96] in [0, 1], float16, each as sharp as it looks when drawn at one of DRAWN_SIDES in a
    frame of `size` pixels. This avoids flicker where a thing is drawn smaller than its picture."""
    pictures = things.float() / 255
    levels = [_blurred(pictures, round(side * size)) for side in DRAWN_SIDES]
    return torch.stack(levels, dim=1).half()


def _blurred(pictures: Tensor, side: int) -> Tensor:
    if side >= THING_SIDE:
        return pictures
    small = F.interpolate(pictures, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    back = F.interpolate(small, size=(THING_SIDE, THING_SIDE), mode="bicubic", align_corners=False)
    covered = back[:, 3:].clamp(0, 1)
    return torch.cat((back[:, :3].clamp(min=0).minimum(covered), covered), dim=1)
