"""Given first frames for videos that are to be judged: the true ones, or images from another model.

The paper judges three kinds of videos: from text alone, from an image that SDXL made, and from the true first frame.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..data.clips import BrokenClip
from ..data.decode import read_frames
from ..data.sources import Entry, is_video
from ..media.images import read_image
from .prompt_sets import Prompt

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def find_first_frames(folder: str | Path, prompts: Sequence[Prompt]) -> list[Path]:
    """The image or video whose first frame each prompt's video begins with, from `folder`.

    It has the prompt's name (`video7010.mp4`, `00003.png`). Or it is in a folder of that name, such as a class of
    UCF-101: the first video of a class takes the first file there in alphabetical order, its second video the next. One
    file of the class's name serves all its videos.

    Raises ValueError, which names the first prompt without a file.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"--first-frames is {root}, which is not a folder; give a folder of images or videos")
    files, kept = _by_name(root), dict[Path, list[Path]]()
    return [_find(root, name, files, kept) for name, _ in prompts]


def read_first_frame(path: Path, height: int, width: int) -> Tensor:
    """An image, or a video's first frame, as [1, 3, height, width] in [0, 1], scaled to cover the size and cut. Raises
    ValueError if it cannot be read."""
    if path.suffix.lower() in IMAGES:
        return read_image(path, height, width)
    try:
        return read_frames(Entry(path, None, "", label=path.name), [0.0], (height, width))
    except BrokenClip as error:
        raise ValueError(f"cannot read the first frame of {path}: {error}") from None


def _find(root: Path, name: str, files: dict[str, Path], kept: dict[Path, list[Path]]) -> Path:
    several = re.fullmatch(r"(.+)-(\d+)", name)
    base, number = (several[1], int(several[2])) if several else (name, 0)
    for called, place in ((name, 0), (base, number)):
        if called in files:
            return files[called]
        inside = root / called
        if inside.is_dir():
            found = kept.setdefault(inside, sorted(_by_name(inside).values()))
            if place < len(found):
                return found[place]
            raise ValueError(f"video {name} needs file number {place + 1} of {inside}, which has {len(found)}")
    raise ValueError(
        f"{root} has no first frame for {name}: give an image or a video of that name, or a folder {base} of them"
    )


def _by_name(folder: Path) -> dict[str, Path]:
    """Images and videos by their names without endings. Images are preferred to videos of the same name."""
    found = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    videos = {path.stem: path for path in found if is_video(path.name)}
    return videos | {path.stem: path for path in found if path.suffix.lower() in IMAGES}
