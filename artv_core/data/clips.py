"""What training draws from: captioned clips, read frame by frame at the rate the model is trained at.

A source is indexed once and then read in any order, so that a sample depends on (seed, step, index) alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor


class BrokenClip(ValueError):  # noqa: N818
    """A clip that cannot be read. The message is one line that names it and says why."""


@dataclass(frozen=True)
class ClipIndex:
    """All clips of a source by columns, N long each, since there may be millions.

    `num_frames` counts frames at the source's rate; `bucket` says which entry of `buckets` (height, width, in pixels) a
    clip's frames are given at; clips of one `group` (a file, a shard) lie near one another and are best read together.
    """

    num_frames: np.ndarray  # int32 [N]
    bucket: np.ndarray  # int16 [N]
    group: np.ndarray  # int32 [N]
    buckets: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.num_frames)


class ClipSource(Protocol):
    """Captioned clips. Reading is safe in several worker processes: a source can be pickled and opens files there."""

    @property
    def fps(self) -> float:
        """Frames per second that indices count."""

    @property
    def holds_latents(self) -> bool:
        """Whether `frames` gives latents of the core's scale instead of images."""

    @property
    def index(self) -> ClipIndex:
        """Sizes and lengths of all clips, known before any is read."""

    def name(self, clip: int) -> str:
        """What a person finds the clip by: path, member of a shard, seconds. Unique within the source."""

    def caption(self, clip: int) -> str:
        """Its caption."""

    def frames(self, clip: int, positions: Sequence[int]) -> Tensor:
        """The frames at `positions` (any order, repeats allowed): images [n, 3, H, W] in [0, 1] or latents
        [n, C, h, w], float32. Raises BrokenClip."""

    def context(self, clip: int) -> Tensor | None:
        """The caption's text embedding [L, D] where the source holds one, else None. Raises BrokenClip."""
