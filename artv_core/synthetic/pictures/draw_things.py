"""Draws the pictures of things from the Noto emoji set (Google, Apache-2.0) into the sheet that the package ships.

    npm pack @iconify-json/noto && tar xzf iconify-json-noto-*.tgz
    pip install cairosvg
    python -m artv_core.synthetic.pictures.draw_things package

Neither is needed to train or to generate: the sheet (`things.webp`) is part of the package.
"""

import argparse
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from .names import THINGS
from .things import MARGIN, SHEET, SHEET_COLUMNS, THING_SIDE

DRAWN_SIDE = 384
"""Size in pixels of the drawing that a picture is scaled down from."""

FAINT = 8
"""Of 255: fainter pixels do not count as part of the thing."""

ICONS = {
    "angry face": "enraged-face",
    "apple": "red-apple",
    "alien": "alien-monster",
    "bee": "honeybee",
    "burger": "hamburger",
    "cake": "birthday-cake",
    "car": "automobile",
    "cat": "cat-face",
    "cheese": "cheese-wedge",
    "cherry": "cherries",
    "chick": "front-facing-baby-chick",
    "clock": "mantelpiece-clock",
    "clown": "clown-face",
    "coffee": "hot-beverage",
    "cool face": "smiling-face-with-sunglasses",
    "corn": "ear-of-corn",
    "cow": "cow-face",
    "diamond": "gem-stone",
    "dinosaur": "sauropod",
    "dog": "dog-face",
    "donut": "doughnut",
    "dragon": "dragon-face",
    "fire truck": "fire-engine",
    "fish": "tropical-fish",
    "fries": "french-fries",
    "gift": "wrapped-gift",
    "globe": "globe-showing-americas",
    "heart": "red-heart",
    "ice cream": "soft-ice-cream",
    "ladybug": "lady-beetle",
    "monkey": "monkey-face",
    "moon": "crescent-moon",
    "mouse": "mouse-face",
    "pig": "pig-face",
    "pine tree": "evergreen-tree",
    "pumpkin": "jack-o-lantern",
    "rabbit": "rabbit-face",
    "smiley": "grinning-face-with-big-eyes",
    "snowman": "snowman-without-snow",
    "sun": "sun-with-face",
    "tiger": "tiger-face",
    "train": "locomotive",
    "tree": "deciduous-tree",
    "truck": "delivery-truck",
    "ufo": "flying-saucer",
    "whale": "spouting-whale",
}
"""Icons of things whose name differs in the set. The others have the thing's name, with hyphens."""


def read_icons(package: Path) -> dict[str, str]:
    """The SVG body of each thing's icon. Raises ValueError if the package lacks one."""
    path = package / "icons.json"
    if not path.is_file():
        raise ValueError(f"no {path}; unpack the npm package @iconify-json/noto, and name its folder")
    data = json.loads(path.read_text())
    bodies, aliases = data["icons"], data.get("aliases", {})
    found = {}
    for thing in THINGS:
        icon = ICONS.get(thing, thing.replace(" ", "-"))
        icon = icon if icon in bodies else aliases.get(icon, {}).get("parent", icon)
        if icon not in bodies:
            raise ValueError(f"{path} has no icon {icon!r} for {thing!r}; version 1.2.9 of the package has it")
        found[thing] = bodies[icon]["body"]
    return found


def rasterise(body: str) -> Image.Image:
    """The icon as RGBA of DRAWN_SIDE pixels."""
    import cairosvg

    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{DRAWN_SIDE}"'
    svg = f'{head} height="{DRAWN_SIDE}" viewBox="0 0 128 128">{body}</svg>'
    png = cairosvg.svg2png(bytestring=svg.encode(), output_width=DRAWN_SIDE, output_height=DRAWN_SIDE)
    return Image.open(io.BytesIO(png)).convert("RGBA")


def picture_of(drawing: Image.Image) -> np.ndarray:
    """A thing that fills its square except for the margin: uint8 [THING_SIDE, THING_SIDE, 4], colours times coverage,
    and coverage."""
    visible = drawing.getchannel("A").point(lambda value: 255 if value > FAINT else 0)
    drawing = drawing.crop(visible.getbbox())
    square = Image.new("RGBA", (max(drawing.size),) * 2)
    square.paste(drawing, ((square.width - drawing.width) // 2, (square.height - drawing.height) // 2))
    pixels = np.asarray(square, dtype=np.float32) / 255
    pixels = np.concatenate((pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]), axis=-1)
    inner = (THING_SIDE - 2 * MARGIN,) * 2
    planes = [Image.fromarray(plane).resize(inner, Image.Resampling.LANCZOS) for plane in np.moveaxis(pixels, -1, 0)]
    small = np.stack([np.asarray(plane) for plane in planes], axis=-1).clip(0, 1)
    small[..., :3] = np.minimum(small[..., :3], small[..., 3:])
    return np.pad((small * 255).round().astype(np.uint8), ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)))


def sheet_of(pictures: list[np.ndarray]) -> Image.Image:
    """All pictures in rows of SHEET_COLUMNS."""
    rows = -(-len(pictures) // SHEET_COLUMNS)
    sheet = np.zeros((rows * THING_SIDE, SHEET_COLUMNS * THING_SIDE, 4), np.uint8)
    for number, picture in enumerate(pictures):
        top, left = (part * THING_SIDE for part in divmod(number, SHEET_COLUMNS))
        sheet[top : top + THING_SIDE, left : left + THING_SIDE] = picture
    return Image.fromarray(sheet, "RGBA")


def main() -> None:
    """Parse the arguments, draw, write."""
    parser = argparse.ArgumentParser(description="Draw the sheet of things from an unpacked @iconify-json/noto.")
    parser.add_argument("package", type=Path, help="folder of the unpacked npm package")
    parser.add_argument("--output", type=Path, default=SHEET, help="the sheet to write (default: the package's own)")
    options = parser.parse_args()
    sheet = sheet_of([picture_of(rasterise(body)) for body in read_icons(options.package).values()])
    sheet.save(options.output, lossless=True, exact=True, quality=100, method=6)
    print(f"wrote {len(THINGS)} things to {options.output} ({options.output.stat().st_size / 1e6:.2f} MB)")


if __name__ == "__main__":
    main()
