"""Sizes of pictures, as people write them."""

import re

MAX_SIDE = 16_384
"""Pixels along one side; more is a slip of the keyboard."""
_MIN_SIDE = 8


def parse_size(text: str, option: str) -> tuple[int, int]:
    """(height, width) of `512x288`, width first, or of `256`, a square. Raises ValueError, one line, that names the
    option, for anything else and for sides that are not 8 to 16384 pixels."""
    found = re.fullmatch(r"([0-9]{1,5})(?:[xX]([0-9]{1,5}))?", text.strip())
    width, height = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not _MIN_SIDE <= min(width, height) <= max(width, height) <= MAX_SIDE:
        raise ValueError(
            f"{option} holds {text[:50]!r}; give width x height in pixels, {_MIN_SIDE} to {MAX_SIDE} each, as in "
            "512x288, or one number for a square"
        )
    return height, width


def check_side(name: str, side: int, factor: int) -> None:
    """Raises ValueError, one line, unless `side` pixels are a positive multiple of `factor`, at most `MAX_SIDE`."""
    if not factor <= side <= MAX_SIDE or side % factor:
        nearest = max(1, round(min(max(side, 0), MAX_SIDE) / factor)) * factor
        raise ValueError(f"{name} is {side}; it must be a positive multiple of {factor}, such as {nearest}")
