"""Draws a sheet of true clips, to see what the world of pictures looks like:

python -m artv_core.synthetic.pictures.show world.jpg --clips 16
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from ...media import contact_sheet
from .world import PictureWorld


def sheet(clips: int, columns: int, size: int, seed: int, length: int = 12) -> Image.Image:
    """Random clips, a row for each below its caption: `columns` of the first `length` frames, `size` pixels wide."""
    world = PictureWorld()
    scenes = world.draw(clips, torch.Generator().manual_seed(seed), two_share=0.2)
    frames = world.render(scenes, torch.arange(float(length)).expand(clips, -1), size)
    return contact_sheet(list(zip(world.captions(scenes), frames, strict=True)), columns)


def main() -> None:
    """Parse the arguments, draw, write."""
    parser = argparse.ArgumentParser(description="Draw a sheet of true clips of the world of pictures.")
    parser.add_argument("output", type=Path, help="the picture to write, such as world.jpg")
    parser.add_argument("--clips", type=int, default=16, help="rows")
    parser.add_argument("--columns", type=int, default=6, help="frames of each row, of the first 12")
    parser.add_argument("--size", type=int, default=128, help="pixels of a frame's side")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    sheet(options.clips, options.columns, options.size, options.seed).save(options.output, quality=88)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
