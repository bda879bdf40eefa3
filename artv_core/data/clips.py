"""The interface of what training reads: captioned clips, frame by frame, at the frame rate of the model.

A source is indexed once and can then be read in any order, so that a sample depends only on (seed, step, index).
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor


class BrokenClip(ValueError):  # noqa: N818
    """A clip cannot be read. The message is one line that names the clip and says why. `passing`: the drive or the
    system failed, not the file, so this is not to be stored as a fact about the file."""

    def __init__(self, message: str, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


def may_pass(error: BaseException) -> bool:
    """Whether reading the same file again may succeed: an error of the drive or the system (an input/output error, too
    many open files, no permission), not of what is in the file."""
    if isinstance(error, OSError):
        return error.errno not in (None, errno.EINVAL)  # FFmpeg gives EINVAL for damaged files
    return isinstance(error, MemoryError)


@dataclass(frozen=True)
class ClipIndex:
    """All clips of a source as columns of length N, because there may be millions.

    `num_frames` counts frames at the source's frame rate. `bucket` is the index into `buckets` (height, width, in
    pixels) of the size that a clip's frames have. Clips of one `group` (a file, a shard) are stored together and are
    fastest to read together.
    """

    num_frames: np.ndarray  # int32 [N]
    bucket: np.ndarray  # int16 [N]
    group: np.ndarray  # int32 [N]
    buckets: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.num_frames)


class ClipSource(Protocol):
    """A source of captioned clips. Several worker processes can read it safely: it can be pickled, and opens its files
    in each process."""

    @property
    def fps(self) -> float:
        """Frames per second, to which frame numbers refer."""

    @property
    def holds_latents(self) -> bool:
        """Whether `frames` gives latents in the core's scale instead of images."""

    @property
    def index(self) -> ClipIndex:
        """Sizes and lengths of all clips, known before any clip is read."""

    def name(self, clip: int) -> str:
        """A unique name by which a person can find the clip: path, member of a shard, seconds."""

    def caption(self, clip: int) -> str:
        """Its caption. Raises BrokenClip."""

    def frames(self, clip: int, positions: Sequence[int]) -> Tensor:
        """The frames at `positions` (any order, repeats allowed): images [n, 3, H, W] in [0, 1] or latents
        [n, C, h, w], float32. Raises BrokenClip."""

    def context(self, clip: int) -> Tensor | None:
        """The caption's text embedding [L, D] if the source has one, else None. Raises BrokenClip."""
