"""The quality table: does a video do what its prompt says, and does it stay that way? The prompts were never drawn in
training.

A video is judged only by its frames, in the same way for a model, for true clips, and for a video that repeats its
first frame, which must get a bad score for motion.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .reading import FrameReading, angle_between, median_motion, read_frame, shifts
from .shapes import DIRECTIONS, SIZES, SPEEDS, Clip, describe, held_out_combinations, sample_clip

DIRECTION_TOLERANCE = 30.0  # degrees
SPEED_TOLERANCE = 0.5
WINDOW = 16


def quality_clips(count: int = 64) -> list[Clip]:
    """Clips with linear motions of the held-out triples, with full captions; sizes, directions and speeds take
    turns."""
    triples = sorted(held_out_combinations())
    sizes = list(SIZES)
    return [linear_clip(index, triples[index % len(triples)], sizes[index % len(sizes)]) for index in range(count)]


def linear_clip(index: int, triple: tuple[str, str, str], size: str) -> Clip:
    """The clip `index` of a (colour, kind, background), with a full caption. Directions and speeds take turns."""
    color, kind, background = triple
    motion = list(DIRECTIONS)[index % len(DIRECTIONS)]
    speed = list(SPEEDS)[index // len(DIRECTIONS) % len(SPEEDS)]
    caption = describe(color, kind, size, "plain", motion, speed, background)
    return replace(
        sample_clip(-2, index, held_out=True),
        color=color,
        kind=kind,
        background=background,
        size=size,
        motion=motion,
        speed=speed,
        texture="plain",
        caption=caption,
    )


@dataclass(frozen=True)
class Rollout:
    """Videos read frame by frame: `readings[n][t]` and `sharpness[n][t]`; `size` is (height, width)."""

    readings: list[list[FrameReading]]
    sharpness: Tensor
    size: tuple[int, int]


def read_rollout(videos: Tensor) -> Rollout:
    """Read videos [N, T, 3, H, W] in [0, 1]. The shape's kind is recognised only on first frames."""
    readings = [[read_frame(image, with_kind=t == 0) for t, image in enumerate(video)] for video in videos]
    height, width = videos.shape[-2:]
    return Rollout(readings, torch.stack([sharpness(video) for video in videos]), (height, width))


def sharpness(video: Tensor) -> Tensor:
    """Mean absolute difference between neighbouring pixels of each frame: [T, 3, H, W] -> [T]."""
    across = video.diff(dim=-1).abs().mean(dim=(1, 2, 3))
    return across + video.diff(dim=-2).abs().mean(dim=(1, 2, 3))


def appearance(rollout: Rollout, clips: Sequence[Clip]) -> dict[str, float]:
    """Shares of first frames in which background, object colour and shape are the prompt's."""
    pairs = [(readings[0], clip) for readings, clip in zip(rollout.readings, clips, strict=True)]
    return {
        "background colour": _share([first.background == clip.background for first, clip in pairs]),
        "object colour": _share([first.color == clip.color for first, clip in pairs]),
        "shape kind": _share([first.kind == clip.kind for first, clip in pairs]),
    }


def direction(rollout: Rollout, clips: Sequence[Clip], start: int, end: int) -> float:
    """Share of videos that move within 30 degrees of the prompt's direction over the frames start..end-1."""
    motions = [_motion(readings[start:end], rollout.size) for readings in rollout.readings]
    return _share([_right_way(motion, clip) for motion, clip in zip(motions, clips, strict=True)])


def speed(rollout: Rollout, clips: Sequence[Clip], start: int, end: int) -> float:
    """Share of videos whose speed is within 50% of the prompt's over the frames start..end-1."""
    motions = [_motion(readings[start:end], rollout.size) for readings in rollout.readings]
    return _share([_right_speed(motion, clip) for motion, clip in zip(motions, clips, strict=True)])


def survival(rollout: Rollout, clips: Sequence[Clip], frame: int) -> float:
    """Share of videos in which the object is there, in its colour, at `frame`."""
    return _share([readings[frame].color == clip.color for readings, clip in zip(rollout.readings, clips, strict=True)])


def background_drift(rollout: Rollout, frame: int) -> float:
    """Mean absolute difference (of 255) of the background colour at `frame` from frame 0's."""
    pairs = [(readings[0].background_rgb, readings[frame].background_rgb) for readings in rollout.readings]
    return 255 * sum((later - first).abs().mean().item() for first, later in pairs) / len(pairs)


def object_drift(rollout: Rollout, frame: int) -> float:
    """Mean absolute difference (of 255) of the object's colour between `frame` and frame 0, over the videos that show
    an object in both; nan if none does."""
    pairs = [(readings[0].rgb, readings[frame].rgb) for readings in rollout.readings]
    changes = [(later - first).abs().mean().item() for first, later in pairs if first is not None and later is not None]
    return 255 * sum(changes) / len(changes) if changes else math.nan


def sharpness_kept(rollout: Rollout, frame: int) -> float:
    """The sharpness at `frame` divided by that at frame 1, median over videos."""
    return (rollout.sharpness[:, frame] / rollout.sharpness[:, 1]).median().item()


def holding(rollout: Rollout, clips: Sequence[Clip], last: int) -> dict[str, float]:
    """What is left at frame `last`: the object, the background's colour, sharpness, motion."""
    window = last - WINDOW + 1, last + 1
    return {
        f"object there at frame {last}": survival(rollout, clips, last),
        f"background drift at frame {last}": background_drift(rollout, last),
        f"sharpness at frame {last} over frame 1": sharpness_kept(rollout, last),
        f"direction at frames {window[0]}-{last}": direction(rollout, clips, *window),
        f"speed at frames {window[0]}-{last}": speed(rollout, clips, *window),
    }


def from_text(rollout: Rollout, clips: Sequence[Clip]) -> dict[str, float]:
    """The whole table of videos from text: appearance, direction, and what is left at the last frame. It needs 16
    frames or more."""
    table = appearance(rollout, clips) | {"direction from text": direction(rollout, clips, 0, 16)}
    table["object there at frame 15"] = survival(rollout, clips, 15)
    return table | holding(rollout, clips, rollout.sharpness.shape[1] - 1)


def _motion(readings: list[FrameReading], size: tuple[int, int]) -> tuple[float, float] | None:
    return median_motion(shifts(readings, *size))


def _right_way(motion: tuple[float, float] | None, clip: Clip) -> bool:
    return motion is not None and angle_between(motion, _velocity(clip)) <= DIRECTION_TOLERANCE


def _right_speed(motion: tuple[float, float] | None, clip: Clip) -> bool:
    wanted = math.hypot(*_velocity(clip))
    return motion is not None and abs(math.hypot(*motion) - wanted) <= SPEED_TOLERANCE * wanted


def _velocity(clip: Clip) -> tuple[float, float]:
    if clip.velocity is None:
        raise ValueError(f"the clip {clip.caption!r} has no one direction")
    return clip.velocity


def _share(values: Sequence[bool]) -> float:
    return sum(values) / max(1, len(values))
