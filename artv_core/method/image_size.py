"""Reading and checking image sizes."""

import re

MAX_SIDE = 16_384
"""In pixels. A larger number is taken for a typing mistake."""
_MIN_SIDE = 8


def parse_size(text: str, option: str) -> tuple[int, int]:
    """Read a size, `512x288` (width first) or `256` (a square), as (height, width) in pixels. Raises ValueError, which
    names the option, on other text and on sides outside 8 to 16384 pixels."""
    found = re.fullmatch(r"([0-9]{1,5})(?:[xX]([0-9]{1,5}))?", text.strip())
    width, height = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not _MIN_SIDE <= min(width, height) <= max(width, height) <= MAX_SIDE:
        raise ValueError(
            f"{option} is {text[:50]!r}; give width x height in pixels, {_MIN_SIDE} to {MAX_SIDE} each, as in "
            "512x288, or one number for a square"
        )
    return height, width


def check_side(name: str, side: int, factor: int) -> None:
    """Raises ValueError unless `side` (pixels) is a positive multiple of `factor` and at most `MAX_SIDE`."""
    if not factor <= side <= MAX_SIDE or side % factor:
        nearest = max(1, round(min(max(side, 0), MAX_SIDE) / factor)) * factor
        raise ValueError(f"{name} is {side}; accepted are multiples of {factor} up to {MAX_SIDE}, such as {nearest}")
