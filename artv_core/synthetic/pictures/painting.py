"""What the painters of places share: a square canvas, uneven surfaces, ridges, shades of a colour."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

CANVAS = 256
"""Pixels of the side that places are painted at; they are kept at half of it."""

Color = Sequence[float] | np.ndarray
"""Red, green and blue, 0 to 255."""


def varied(rng: np.random.Generator, color: Color, spread: float = 14) -> np.ndarray:
    """The colour, a little different in each channel."""
    return np.clip(np.asarray(color, float) + rng.normal(0, spread, 3), 0, 255)


def ink(color: Color) -> tuple[int, ...]:
    """The colour as Pillow takes it."""
    return tuple(int(channel) for channel in np.clip(color, 0, 255))


def uneven(rng: np.random.Generator, coarsest: int = 2, octaves: int = 5) -> np.ndarray:
    """A surface [CANVAS, CANVAS] from 0 to 1: random hills, `coarsest` to a side, and finer ones on them."""
    surface = np.zeros((CANVAS, CANVAS), np.float32)
    for octave in range(octaves):
        heights = rng.standard_normal((coarsest * 2**octave + 2,) * 2).astype(np.float32)
        smooth = Image.fromarray(heights).resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)
        surface += 0.55**octave * np.asarray(smooth)
    surface -= surface.min()
    return surface / surface.max()


def downward() -> np.ndarray:
    """[CANVAS, CANVAS], 0 at the top to 1 at the bottom."""
    return np.broadcast_to(np.linspace(0, 1, CANVAS)[:, None], (CANVAS, CANVAS))


def between(start: Color, end: Color, share: np.ndarray) -> np.ndarray:
    """Colours [CANVAS, CANVAS, 3] from `start` (share 0) to `end` (share 1)."""
    return np.asarray(start) + share[..., None] * (np.asarray(end, float) - np.asarray(start, float))


def ridge(rng: np.random.Generator, height: float, swing: float, octaves: int) -> np.ndarray:
    """The y of a line [CANVAS] that goes up and down about `height`."""
    line, across = np.full(CANVAS, float(height)), np.linspace(0, 1, CANVAS)
    for octave in range(octaves):
        knots = 3 * 2**octave + 1
        heights = rng.standard_normal(knots)
        line += swing * 0.5**octave * np.interp(across, np.linspace(0, 1, knots), heights)
    return line


def filled_below(picture: np.ndarray, line: np.ndarray, paint: np.ndarray) -> np.ndarray:
    """The picture with `paint` below a line."""
    return np.where((np.arange(CANVAS)[:, None] > line)[..., None], paint, picture)


def as_image(picture: np.ndarray) -> Image.Image:
    """For drawing on."""
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, color: Color, flatness: float = 1.0) -> None:
    """A filled circle, or an ellipse of `flatness` times its height."""
    draw.ellipse((x - radius, y - radius * flatness, x + radius, y + radius * flatness), fill=ink(color))


def blades_of_grass(
    draw: ImageDraw.ImageDraw,
    rng: np.random.Generator,
    top: float,
    count: int,
    colors: Sequence[Color],
    lengths: tuple[float, float],
) -> None:
    """From far ones at `top` to near, longer ones at the lower border."""
    roots = np.sort(rng.uniform(top, CANVAS + 8, count))
    nearness = (roots - top) / (CANVAS - top + 1)
    length = (lengths[0] + (lengths[1] - lengths[0]) * nearness) * rng.uniform(0.6, 1.3, count)
    left, lean = rng.uniform(0, CANVAS, count), rng.normal(0, 3, count)
    shades = np.asarray(colors)[rng.integers(len(colors), size=count)] + rng.normal(0, 10, (count, 3))
    shades = shades.clip(0, 255).astype(int)
    widths = (1 + 1.6 * nearness).astype(int)
    rows = zip(left, roots, lean, length, shades.tolist(), widths.tolist(), strict=True)
    for x, y, sideways, up, shade, width in rows:
        draw.line((x, y, x + sideways, y - up), fill=tuple(shade), width=width)
