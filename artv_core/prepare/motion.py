"""Finds cuts in a clip and measures how much moves, by PySceneDetect's content value of each frame.

The content value is how much the hue, saturation and brightness of a pixel (each 0 to 255) change from one frame to the
next, on average. Every frame is looked at, scaled down, up to 31 a second. A frame whose value reaches the threshold
begins a new shot, however short. The motion score is the mean of the values of all other frames; the paper does not say
which mean it uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..data.clips import BrokenClip
from ..data.decode import iterate_frames
from ..data.sources import Entry
from ..media.colors import color_options

WIDTH = 256
"""Frames are scaled down to at most this width in pixels, which is also PySceneDetect's default."""

CLOSEST = 1 / 31
"""Least number of seconds between frames that are looked at; at 60 frames a second, every other one is skipped."""


@dataclass(frozen=True)
class Shot:
    """Start and end in seconds from the clip's start (the end is excluded), and the motion score between them."""

    start: float
    end: float
    motion: float


@dataclass(frozen=True)
class Motion:
    """A clip's motion score, and its shots: one if there is no cut."""

    score: float
    shots: list[Shot]


def measure_motion(entry: Entry, duration: float, threshold: float) -> Motion:
    """Decode a clip of `duration` seconds once. Raises BrokenClip."""
    values = content_values(entry)
    if not values:
        raise BrokenClip(f"{entry.name}: it holds no frames")
    cuts = [time for time, value in values if value >= threshold]
    bounds = [0.0, *cuts, max(duration, values[-1][0])]
    shots = []
    for start, end in pairwise(bounds):
        within = [value for time, value in values[1:] if start <= time < end and value < threshold]
        shots.append(Shot(round(start, 6), round(end, 6), _mean(within)))
    return Motion(_mean([value for _, value in values[1:] if value < threshold]), shots)


def content_values(entry: Entry) -> list[tuple[float, float]]:
    """(seconds from the clip's start, content value) of each frame looked at. The first value is 0."""
    from scenedetect import FrameTimecode
    from scenedetect.detectors import ContentDetector

    detector = ContentDetector(min_scene_len=0)
    values: list[tuple[float, float]] = []
    for time, frame in iterate_frames(entry):
        if values and time - values[-1][0] < CLOSEST:
            continue
        detector.process_frame(FrameTimecode(len(values), fps=30.0), _small(frame))
        values.append((time, float(detector._frame_score or 0.0)))
    return values


def _mean(values: list[float]) -> float:
    return round(sum(values) / max(len(values), 1), 4)


def _small(frame: Any) -> Any:
    """The frame as [H, W, 3] uint8 in PySceneDetect's order of colours."""
    width = min(frame.width, WIDTH)
    height = max(1, round(frame.height * width / frame.width))
    return frame.reformat(width, height, "bgr24", interpolation="AREA", **color_options(frame)).to_ndarray()
