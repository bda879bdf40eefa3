"""The text of each frame, from segments that may fade into one another and overlap."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

FOREVER = 2**62
"""A segment end that no video reaches."""
MAX_WEIGHT = 1e6


class PromptSpan(NamedTuple):
    """The frames in which a prompt counts: from `start` up to but not including `end` (None: no end). Its weight rises
    during the first `fade_in` frames and falls during the last `fade_out`."""

    start: int = 0
    end: int | None = None
    fade_in: int = 0
    fade_out: int = 0

    def weight(self, frame: int) -> float:
        """The weight at a frame, from 0 (no influence) to 1. The weights of two spans that cross-fade add up to 1."""
        if frame < self.start or (self.end is not None and frame >= self.end):
            return 0.0
        rise = min(1.0, (frame - self.start + 1) / (self.fade_in + 1))
        fall = 1.0 if self.end is None else min(1.0, (self.end - frame) / (self.fade_out + 1))
        return rise * fall


@dataclass(frozen=True)
class TextSegment:
    """The text `context` for the frames from `start` (absolute) up to but not including `end`. `context` is [L, D], or
    [B, L, D] with a text for each video of the batch. A segment without `end` lasts until the next one starts; the last
    one lasts until the end of the video.

    Segments may overlap. A frame's text is then the mean of their contexts, weighted by `weight`, which rises during a
    segment's first `fade_in` frames and falls during its last `fade_out`, as in `PromptSpan`. Raises ValueError on
    frames and weights out of range.
    """

    start: int
    context: Tensor
    end: int | None = None
    weight: float = 1.0
    fade_in: int = 0
    fade_out: int = 0

    def __post_init__(self) -> None:
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            lasts = f"starts at frame {self.start} and ends before frame {self.end}"
            raise ValueError(f"a prompt {lasts}; give a start of 0 or more, and an end after the start")
        if not 1 / MAX_WEIGHT <= self.weight <= MAX_WEIGHT:
            raise ValueError(f"a prompt has weight {self.weight}; accepted are {1 / MAX_WEIGHT:g} to {MAX_WEIGHT:g}")
        if min(self.fade_in, self.fade_out) < 0:
            raise ValueError(f"a prompt fades in {self.fade_in} and out {self.fade_out} frames; give 0 or more")


class TextTrack:
    """The text of each frame. A frame that no segment covers has the text of the frame before it.

    `starts` has the frames at which prompts start, ascending, each once.

    Raises ValueError if no segment starts at frame 0, or if a segment without an end does not start before the next.
    """

    def __init__(self, segments: Sequence[TextSegment]):
        starts = [segment.start for segment in segments]
        if not starts or min(starts) != 0:
            raise ValueError(f"prompts start at frames {starts}; the first must start at frame 0")
        if any(before.end is None and after.start <= before.start for before, after in pairwise(segments)):
            raise ValueError(f"prompts start at frames {starts}; each must start after the one before it")
        self.segments = tuple(segments)
        self._spans = [
            PromptSpan(segment.start, segment.end or next_start, segment.fade_in, segment.fade_out)
            for segment, next_start in zip(segments, [*starts[1:], FOREVER], strict=True)
        ]
        self.starts = tuple(sorted(set(starts)))

    def begin(self, frame: int) -> None:
        """Called before a frame is made, and before anything is asked about it. Does nothing here; a track that can be
        steered takes a new prompt now."""

    def context(self, frame: int) -> Tensor:
        """Context tokens of a frame, [L, D] or [B, L, D]."""
        texts = self.texts(frame)
        return texts[0][0] if len(texts) == 1 else mean_context(texts)

    def texts(self, frame: int) -> list[tuple[Tensor, float]]:
        """The contexts that count at a frame, each [L, D] or [B, L, D], with their weights (above 0)."""
        texts = self._weighted(frame)
        if not texts:  # after the end of one segment, before the start of the next
            texts = self._weighted(max(end for _, end, _, _ in self._spans if end is not None and end <= frame) - 1)
        return texts

    def starts_segment(self, frame: int) -> bool:
        """Whether a new prompt starts at this frame."""
        return frame >= 0 and self.starts[self.segment(frame)] == frame

    def segment(self, frame: int) -> int:
        """The number of prompts' starts up to and including this frame, minus 1: which segment the frame is in. Prompts
        that start at the same frame count as one segment."""
        return bisect.bisect_right(self.starts, frame) - 1

    def _weighted(self, frame: int) -> list[tuple[Tensor, float]]:
        texts = zip(self.segments, self._spans, strict=True)
        weighted = [(segment.context, segment.weight * span.weight(frame)) for segment, span in texts]
        return [(context, weight) for context, weight in weighted if weight > 0]


def mean_context(texts: Sequence[tuple[Tensor, float]]) -> Tensor:
    """The weighted mean of contexts [L, D] or [B, L, D], computed in float32. Contexts of different lengths are first
    repeated to a common length, which does not change attention. Raises ValueError if the widths differ."""
    widths = {context.shape[-1] for context, _ in texts}
    if len(widths) > 1:
        raise ValueError(f"prompts of widths {sorted(widths)} cannot be blended; encode them with one text encoder")
    length = math.lcm(*(context.shape[-2] for context, _ in texts))
    first, total = texts[0]
    mean = lengthened(first, length).float()
    for context, weight in texts[1:]:
        total += weight
        mean = torch.lerp(mean, lengthened(context, length).to(mean), weight / total)
    return mean.to(first.dtype)


def lengthened(context: Tensor, length: int) -> Tensor:
    """A context [..., L, D] repeated to `length` tokens, which must be a multiple of L."""
    repeats = [1] * context.ndim
    repeats[-2] = length // context.shape[-2]
    return context if repeats[-2] == 1 else context.repeat(repeats)
