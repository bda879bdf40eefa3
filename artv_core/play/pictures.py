"""Frames as files for a page. Not in the paper."""

import io
from dataclasses import dataclass

from torch import Tensor

from ..media.pixels import to_bytes

SMALL_SIDE = 256
"""Up to this number of pixels along both sides a picture is sent without loss, as PNG; larger ones as JPEG."""

_JPEG_QUALITY = 92


@dataclass(frozen=True)
class Picture:
    """A frame for the page. `number` counts all pictures of a session, `take` its steps back: after one, frames of
    earlier takes do not count any more."""

    number: int
    take: int
    index: int
    data: bytes


def encoded(image: Tensor, index: int) -> bytes:
    """An image [3, H, W] in [0, 1] as the bytes of a PNG or JPEG file. Raises the errors of `to_bytes`."""
    from PIL import Image

    picture, file = Image.fromarray(to_bytes(image, index)), io.BytesIO()
    if max(picture.size) <= SMALL_SIDE:
        picture.save(file, format="PNG", compress_level=1)
    else:
        picture.save(file, format="JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return file.getvalue()
