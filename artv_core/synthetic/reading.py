"""Reads what happens in a clip of the synthetic world by image analysis: colours, shape, motion, presence.

The background is the median colour; what differs from it is the object. Because the world wraps around, positions are
circular means, and motion is the median of circular shifts from frame to frame. Not in the paper.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from .shapes import COLORS, KINDS, Clip, coverage

OBJECT_THRESHOLD = 0.22
"""A pixel farther than this in RGB from the background does not belong to it."""
MIN_AREA = 0.015
"""The least share of the frame that an object covers; a smaller one counts as lost."""


@dataclass(frozen=True)
class FrameReading:
    """What was read in one frame. `color`, `kind`, `position` (x, y in [0, 1)) and `rgb` are None if no object is
    seen."""

    background: str
    background_rgb: Tensor
    color: str | None
    kind: str | None
    area: float
    position: tuple[float, float] | None
    rgb: Tensor | None = None


def read_frame(image: Tensor, with_kind: bool = False) -> FrameReading:
    """Read one image [3, H, W] in [0, 1]. Recognising the kind of shape is slow, so it is optional."""
    image = image.float().clamp(0, 1)
    background = image.flatten(1).median(dim=1).values
    return read_object(image, background, (image - background[:, None, None]).norm(dim=0), with_kind)


def read_object(image: Tensor, background: Tensor, distance: Tensor, with_kind: bool = False) -> FrameReading:
    """Read an image [3, H, W], given how far each pixel is from everything that is not the object: [H, W]."""
    found = distance > OBJECT_THRESHOLD
    area = found.float().mean().item()
    if area < MIN_AREA:
        return FrameReading(nearest_color(background), background, None, None, area, None)
    core = distance > 0.7 * torch.quantile(distance[found], 0.9)
    rgb = image[:, core].median(dim=1).values
    position = circular_mean(found.float())
    kind = match_kind(found) if with_kind else None
    return FrameReading(nearest_color(background), background, nearest_color(rgb), kind, area, position, rgb)


def nearest_color(rgb: Tensor) -> str:
    """The palette's name for a colour [3]: nearest in RGB."""
    distances = {name: (rgb.cpu() - torch.tensor(value)).norm().item() for name, value in COLORS.items()}
    return min(distances, key=distances.__getitem__)


def circular_mean(weights: Tensor) -> tuple[float, float]:
    """Centre (x, y) in [0, 1) of weights [H, W] on a torus."""
    return _circular(weights.sum(dim=0)), _circular(weights.sum(dim=1))


def _circular(profile: Tensor) -> float:
    angles = (torch.arange(len(profile)) + 0.5) / len(profile) * math.tau
    x, y = (profile * angles.cos()).sum().item(), (profile * angles.sin()).sum().item()
    return (math.atan2(y, x) / math.tau) % 1.0


def match_kind(found: Tensor) -> str:
    """The shape whose rendering, at the best of several sizes and small shifts, overlaps `found` [H, W] most."""
    centred = _centred(found)
    names, templates = _templates(*found.shape)
    both = (templates & centred).flatten(1).sum(dim=1)
    either = (templates | centred).flatten(1).sum(dim=1)
    return names[int((both / either).argmax())]


def _centred(found: Tensor) -> Tensor:
    height, width = found.shape
    x, y = circular_mean(found.float())
    return found.roll((round(height / 2 - y * height), round(width / 2 - x * width)), dims=(0, 1))


@lru_cache(maxsize=4)
def _templates(height: int, width: int) -> tuple[list[str], Tensor]:
    names, masks = [], []
    for kind in KINDS:
        for step in range(14):
            found = coverage(kind, 0.12 * 1.09**step, height, width) > 0.5
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    names.append(kind)
                    masks.append(_centred(found).roll((dy, dx), dims=(0, 1)))
    return names, torch.stack(masks)


def shifts(readings: list[FrameReading], height: int, width: int) -> list[tuple[float, float]]:
    """Motion (x, y) between consecutive frames that both show an object: the shorter way around, in short sides per
    frame."""
    short, found = min(height, width), []
    for before, after in pairwise(readings):
        if before.position is not None and after.position is not None:
            dx = (after.position[0] - before.position[0] + 0.5) % 1.0 - 0.5
            dy = (after.position[1] - before.position[1] + 0.5) % 1.0 - 0.5
            found.append((dx * width / short, dy * height / short))
    return found


def median_motion(motions: list[tuple[float, float]]) -> tuple[float, float] | None:
    """Median of each component; None if there are no motions."""
    if not motions:
        return None
    x, y = torch.tensor(motions).median(dim=0).values.tolist()
    return x, y


def angle_between(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Degrees between two motions; 180 if one of them hardly moves (less than 0.01 short sides per frame)."""
    if math.hypot(*a) < 0.01 or math.hypot(*b) < 0.01:
        return 180.0
    return abs(math.degrees((math.atan2(a[1], a[0]) - math.atan2(b[1], b[0]) + math.pi) % math.tau - math.pi))


@dataclass(frozen=True)
class ClipScore:
    """How well a video [T, 3, H, W] matches the clip that its prompt describes. None: the prompt does not say."""

    background: bool
    color: bool
    kind: bool
    present_at_end: bool
    direction: bool | None
    background_drift: float  # mean absolute difference, of 255


def score_clip(video: Tensor, clip: Clip) -> ClipScore:
    """Judge colours and shape on the first frame, presence and drift on the last one, direction on all frames."""
    height, width = video.shape[-2:]
    readings = [read_frame(image, with_kind=index == 0) for index, image in enumerate(video)]
    first, last = readings[0], readings[-1]
    motion = median_motion(shifts(readings, height, width))
    direction = None
    if clip.velocity is not None:
        direction = motion is not None and angle_between(motion, clip.velocity) <= 30
    return ClipScore(
        background=first.background == clip.background,
        color=first.color == clip.color,
        kind=first.kind == clip.kind,
        present_at_end=last.color == clip.color,
        direction=direction,
        background_drift=(last.background_rgb - first.background_rgb).abs().mean().item() * 255,
    )


def summarise(scores: list[ClipScore]) -> dict[str, float]:
    """Shares in [0, 1] over the clips whose prompts say something about it, and the mean drift."""
    result = {}
    for name in ("background", "color", "kind", "present_at_end", "direction"):
        values = [getattr(score, name) for score in scores if getattr(score, name) is not None]
        result[name] = sum(values) / max(1, len(values))
    result["background_drift"] = sum(score.background_drift for score in scores) / max(1, len(scores))
    return result
