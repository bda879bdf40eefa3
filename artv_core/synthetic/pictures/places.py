"""The pictures of places: painted when they are needed, then kept in memory and in a file.

A picture depends only on its place and number. Painting all 696 takes about 15 seconds on one core.
"""

import hashlib
import os
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from ...files.tensor_file import write_tensor_file
from . import painters, painting
from .names import DETAILED_PLACES, PLACES
from .painters import PAINTERS

PICTURES = 60
"""Pictures of each detailed place."""

PLACE_SIDE = 128
"""Pixels."""

WORTH_KEEPING = 200
"""Fewer pictures than this are not stored, but painted each time, which takes a few seconds at most."""


def pictures_of_each(pictures: int = PICTURES) -> list[int]:
    """How many pictures there are of each place: a plain place has a fifth as many as a detailed one. Raises ValueError
    below 1."""
    if pictures < 1:
        raise ValueError(f"pictures: got {pictures}, at least 1 of each place is needed")
    return [pictures if place in DETAILED_PLACES else max(1, pictures // 5) for place in PLACES]


@cache
def read_places(pictures: int = PICTURES, folder: Path | None = None) -> Tensor:
    """All pictures, place after place, uint8 [M, 3, 128, 128].

    A large number is read from a file in `folder` (by default the user's cache), or written to it if there is none. If
    that is not possible, they are painted each time. Raises ValueError if `pictures` is below 1.
    """
    counts = pictures_of_each(pictures)
    if sum(counts) < WORTH_KEEPING:
        return _painted(counts)
    path = (folder or user_cache()) / f"places-{pictures}-{_painters_digest()}.safetensors"
    found = _kept(path, sum(counts))
    if found is None:
        found = _painted(counts)
        _keep(found, path)
    return found


def paint_place(place: int, number: int) -> Image.Image:
    """Picture `number` of a place, PLACE_SIDE pixels wide and high."""
    painted = PAINTERS[PLACES[place]](np.random.default_rng((28, place, number)))
    return painted.resize((PLACE_SIDE, PLACE_SIDE), Image.Resampling.LANCZOS)


def user_cache() -> Path:
    """The folder in which this user's programs store data that they can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "artv"


def _painted(counts: list[int]) -> Tensor:
    wanted = [(place, number) for place, count in enumerate(counts) for number in range(count)]
    shown = tqdm(wanted, desc="painting places", mininterval=2, disable=len(wanted) < WORTH_KEEPING, leave=False)
    pixels = np.stack([np.asarray(paint_place(place, number)) for place, number in shown])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _painters_digest() -> str:
    """A digest that changes whenever the painters change, so that a file of older pictures is not used."""
    sources = (Path(module.__file__ or "").read_bytes() for module in (painting, painters))
    return hashlib.sha256(b"".join(sources)).hexdigest()[:12]


def _kept(path: Path, count: int) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            found: Tensor = file.get_tensor("places").clone()
    except (SafetensorError, OSError):
        return None
    return found if found.shape == (count, 3, PLACE_SIDE, PLACE_SIDE) and found.dtype == torch.uint8 else None


def _keep(pictures: Tensor, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensor_file(path, {"places": pictures})
    except (OSError, ValueError):
        return  # a full or read-only disk; they are painted again next time
