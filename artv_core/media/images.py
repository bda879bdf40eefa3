"""Reading image files at a given size."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..files.finite import is_finite
from ..files.partial_file import reason

_STRIP = 16
"""An image that is this many times longer than the part that is used is a strip."""


def read_image(path: str | Path, height: int, width: int) -> Tensor:
    """An image file as [1, 3, height, width] float32 in [0, 1].

    The image is rotated by its EXIF orientation and transparent areas become white. Grey images become RGB, and 16-bit
    images keep their precision. Then the image is scaled to just cover `width` x `height` pixels, and centre-cropped.
    Raises ValueError if it cannot be read, or has values that are infinite or not a number.
    """
    try:
        with Image.open(path) as file:
            image = _to_rgb(ImageOps.exif_transpose(file))
    # A damaged file can make Pillow raise nearly anything (OSError, SyntaxError, struct.error, ...).
    except Exception as error:
        raise ValueError(f"cannot read image {path}: {_image_fault(error)}") from None
    if not is_finite(image):
        raise ValueError(f"cannot read image {path}: some of its values are infinite or not a number")
    return _cover(image, height, width).clamp(0, 1)


def _to_rgb(image: Image.Image) -> Tensor:
    """An image in any Pillow mode as [1, 3, H, W] float32 in [0, 1]."""
    if image.mode.startswith(("I", "F")):
        grey = torch.from_numpy(np.asarray(image).astype(np.float32))
        return (grey / _white_level(image))[None, None].expand(1, 3, -1, -1)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = _to_float(image.convert("RGBA"))
        return rgba[:, :3] * rgba[:, 3:] + (1 - rgba[:, 3:])
    return _to_float(image.convert("RGB"))


def _white_level(image: Image.Image) -> float:
    # Pillow reads 16-bit grey as "I;16" or, in older releases, "I". In float images (TIFF), 1 is white.
    return 1.0 if image.mode == "F" else 65535.0


def _to_float(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def _cover(image: Tensor, height: int, width: int) -> Tensor:
    """Scale [1, 3, H, W] to cover the wanted size, then crop its centre."""
    image = _middle(image, height, width)
    old_height, old_width = image.shape[-2:]
    scale = max(height / old_height, width / old_width)
    size = (max(height, round(old_height * scale)), max(width, round(old_width * scale)))
    if size != (old_height, old_width):
        image = torch.nn.functional.interpolate(image, size=size, mode="bicubic", antialias=True, align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return image[..., top : top + height, left : left + width]


def _middle(image: Tensor, height: int, width: int) -> Tensor:
    """The middle of a long strip: the whole strip, scaled to cover the wanted size, could need more memory than there
    is. Other images do not change."""
    rows, columns = image.shape[-2:]
    most_rows = _STRIP * max(1, columns * height // width)
    most_columns = _STRIP * max(1, rows * width // height)
    top, left = max(0, rows - most_rows) // 2, max(0, columns - most_columns) // 2
    return image[..., top : rows - top, left : columns - left]


def _image_fault(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is not an image of a known kind"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"it is damaged or too large ({reason(error)})"
