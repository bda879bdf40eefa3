"""Contact sheets: labelled rows of frames."""

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .pixels import to_bytes

_SHEET_TILE = 128


def contact_sheet(rows: Sequence[tuple[str, Tensor | Sequence[Tensor]]], columns: int = 8) -> Image.Image:
    """An image with one row for each (label, frames). A row has its label, and below it at most `columns` evenly spaced
    frames, including the first and last. Frames are [T, 3, H, W] or T times [3, H, W], floats in [0, 1] or uint8. Small
    frames are enlarged without blur. Raises ValueError if there are no rows, frames or columns."""
    if not rows or columns < 1 or any(len(frames) == 0 for _, frames in rows):
        raise ValueError("a contact sheet needs at least one row, one column, and one frame in each row")
    strips = [_strip(label, frames, columns) for label, frames in rows]
    margin = 16
    height = sum(strip.height for strip in strips) + margin * (len(strips) + 1)
    sheet = Image.new("RGB", (max(strip.width for strip in strips) + 2 * margin, height), "white")
    top = margin
    for strip in strips:
        sheet.paste(strip, (margin, top))
        top += strip.height + margin
    return sheet


def _strip(label: str, frames: Tensor | Sequence[Tensor], columns: int) -> Image.Image:
    indices = evenly_spaced(len(frames), columns)
    tiles = [_tile(frames[index], index) for index in indices]
    gap, font, small = 6, ImageFont.load_default(16), ImageFont.load_default(11)
    width, height = tiles[0].size
    full_width = columns * (width + gap) - gap
    lines = wrapped(label, font, full_width)
    header, footer = 22 * len(lines) + 4, 16
    strip = Image.new("RGB", (full_width, header + height + footer), "white")
    draw = ImageDraw.Draw(strip)
    for row, line in enumerate(lines):
        draw.text((0, 22 * row), line, fill="#222222", font=font)
    for column, (index, tile) in enumerate(zip(indices, tiles, strict=True)):
        left = column * (width + gap)
        strip.paste(tile, (left, header))
        draw.rectangle((left, header, left + width - 1, header + height - 1), outline="#cccccc")
        draw.text((left, header + height + 2), f"frame {index}", fill="#888888", font=small)
    return strip


def _tile(frame: Tensor, index: int) -> Image.Image:
    image = Image.fromarray(to_bytes(frame, index))
    factor = max(1, round(_SHEET_TILE / min(image.size)))
    if factor > 1:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((4 * _SHEET_TILE, 2 * _SHEET_TILE), Image.Resampling.LANCZOS)
    return image


def wrapped(text: str, font: Any, width: int) -> list[str]:
    """Wrap text into lines of at most `width` pixels in the given font. A word that is longer gets its own line."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def evenly_spaced(count: int, columns: int) -> list[int]:
    """At most `columns` evenly spaced indices below `count`, including the first and last."""
    if count <= columns:
        return list(range(count))
    return [round(column * (count - 1) / max(1, columns - 1)) for column in range(columns)]
