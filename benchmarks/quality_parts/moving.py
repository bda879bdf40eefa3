"""A moving picture of measured videos, for the README: the first ones, so that none is picked."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from artv_core.media import wrapped

COLUMNS, LABEL = 4, 26
QUALITY = 80


def save_moving(videos: Tensor, captions: Sequence[str], path: Path, fps: float = 8.0, count: int = 8) -> None:
    """An animated WebP of the first `count` of videos [N, T, 3, H, W] in [0, 1], each above its caption."""
    pixels = (videos[:count].clamp(0, 1) * 255).round().byte().permute(1, 0, 3, 4, 2).numpy()
    pages = [_page(frames, captions[:count]) for frames in pixels]
    path.parent.mkdir(parents=True, exist_ok=True)
    pages[0].save(
        path, save_all=True, append_images=pages[1:], duration=round(1000 / fps), loop=0, quality=QUALITY, method=6
    )


def _page(frames: Sequence, captions: Sequence[str]) -> Image.Image:
    height, width = frames[0].shape[:2]
    rows = -(-len(frames) // COLUMNS)
    page = Image.new("RGB", (COLUMNS * (width + 4) - 4, rows * (height + LABEL + 6) - 6), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=9)
    for number, (frame, caption) in enumerate(zip(frames, captions, strict=True)):
        x, y = number % COLUMNS * (width + 4), number // COLUMNS * (height + LABEL + 6)
        page.paste(Image.fromarray(frame), (x, y))
        draw.multiline_text((x, y + height + 1), "\n".join(wrapped(caption, font, width)), "black", font, spacing=2)
    return page
