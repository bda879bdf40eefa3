"""A sheet of the copy masks of one frame, one tile for each denoising step (as in the paper's Fig. 4, 9 and 11)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .pixels import mask_frames, to_bytes
from .sheets import evenly_spaced, wrapped

MOST_STEPS = 48
"""A sheet shows at most this many steps, evenly spaced."""

_TILE, _GAP, _MARGIN, _CAPTION, _TITLE = 192, 14, 20, 46, 30  # pixels
_WIDEST = 1300


class StepTile(NamedTuple):
    """One step: its caption, its mask [h, w] in [0, 1] (1 = copied), and its denoised picture [3, H, W], if wanted."""

    caption: str
    mask: Tensor
    picture: Tensor | None = None


def step_sheet(title: str, steps: Sequence[StepTile]) -> Image.Image:
    """An image with a tile for each step, in reading order: caption, share that is copied, mask (white: copied), and
    the picture beside it. Cells are enlarged without blur. Raises ValueError if there are no steps."""
    if not steps:
        raise ValueError("a sheet of steps needs at least one step")
    cells = [_cell(steps[index]) for index in evenly_spaced(len(steps), MOST_STEPS)]
    width, height = cells[0].size
    columns = _columns(len(cells), width)
    rows = -(-len(cells) // columns)
    font = ImageFont.load_default(22)
    full_width = max(columns * (width + _GAP) - _GAP, 480)
    lines = wrapped(title, font, full_width)
    top = _MARGIN + _TITLE * len(lines) + _GAP
    sheet = Image.new("RGB", (full_width + 2 * _MARGIN, top + rows * (height + _GAP) - _GAP + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for row, line in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + _TITLE * row), line, fill="#222222", font=font)
    for place, cell in enumerate(cells):
        row, column = divmod(place, columns)
        sheet.paste(cell, (_MARGIN + column * (width + _GAP), top + row * (height + _GAP)))
    return sheet


def _columns(count: int, width: int) -> int:
    """As many as fit side by side, and no more than make the rows equally long."""
    most = max(1, (_WIDEST + _GAP) // (width + _GAP))
    rows = -(-count // most)
    return -(-count // rows)


def _cell(step: StepTile) -> Image.Image:
    factor = max(1, round(_TILE / max(step.mask.shape)))
    height, width = (side * factor for side in step.mask.shape)
    pictures = [_picture(mask_frames(step.mask[None, None].cpu(), height, width)[0], (width, height))]
    if step.picture is not None:
        pictures.append(_picture(step.picture, (width, height)))
    whole = max(len(pictures) * (width + 4) - 4, 150)
    cell = Image.new("RGB", (whole, _CAPTION + height), "white")
    draw: Any = ImageDraw.Draw(cell)
    draw.text((0, 0), step.caption, fill="#222222", font=ImageFont.load_default(18))
    draw.text((0, 22), f"{float(step.mask.float().mean()):.0%} copied", fill="#666666", font=ImageFont.load_default(16))
    for place, picture in enumerate(pictures):
        left = place * (width + 4)
        cell.paste(picture, (left, _CAPTION))
        draw.rectangle((left, _CAPTION, left + width - 1, _CAPTION + height - 1), outline="#999999")
    return cell


def _picture(image: Tensor, size: tuple[int, int]) -> Image.Image:
    picture = Image.fromarray(to_bytes(image, 0))
    larger = size[0] > picture.width
    return picture.resize(size, Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS)
