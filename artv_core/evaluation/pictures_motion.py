"""How the thing of a video moves, measured from where the judge sees it: direction, speed, and which of the world's
motions.

Not in the paper.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ..synthetic.pictures.motion import states
from ..synthetic.pictures.names import MOTIONS, OTHER_MOTIONS, VELOCITIES
from ..synthetic.pictures.scenes import Scenes
from .pictures_judge import FULL_TURN, Seen, angles, short_way

THERE = 0.5
DIRECTION_TOLERANCE = 30.0  # degrees
SPEED_TOLERANCE = 0.3
STRIDE = 4
"""Distance in frames for measuring velocity. From one frame to the next a slow thing moves only half a cell of the
judge, not much more than the judge's error."""
LEAST_SPEED = 0.01
"""In frame sides per frame. A slower thing has no direction."""
PHASES = 16
POSITION_SPREAD, SIZE_SPREAD, ANGLE_SPREAD = 0.03, 0.06, math.radians(20)
"""How far a thing may be from its course: in frame sides, in the logarithm of its size, in radians."""
WORST = 4.0
"""The most that one frame counts against a motion, so that a single error decides nothing."""
PERIODIC = ("bouncing", "pulsing", "swinging")
FAINTER = 0.6
"""Factor on the true change of size: the judge sees small things larger than they are, so pulsing can look weaker."""


def velocity(seen: Seen, start: int, end: int) -> Tensor:
    """Median velocity (x, y), measured over STRIDE frames, in the frames start..end-1 where the thing is there at both
    ends: [N, 2] in frame sides per frame; NaN if it never is."""
    position, there = seen.position[:, start:end], seen.there[:, start:end] > THERE
    change = short_way(position[:, STRIDE:] - position[:, :-STRIDE]) / STRIDE
    change = torch.where((there[:, STRIDE:] & there[:, :-STRIDE])[..., None], change, torch.nan)
    return change.nanmedian(dim=1).values


def right_direction(found: Tensor, motions: list[str]) -> Tensor:
    """Whether velocities [N, 2] are within 30 degrees of the direction of the linear motions named: bool [N]."""
    wanted = _wanted(motions)
    cosine = (found * wanted).sum(1) / (found.norm(dim=1) * wanted.norm(dim=1))
    return (found.norm(dim=1) >= LEAST_SPEED) & (cosine >= math.cos(math.radians(DIRECTION_TOLERANCE)))


def right_speed(found: Tensor, motions: list[str]) -> Tensor:
    """Whether velocities [N, 2] are within 30% of the speed of the linear motions named: bool [N]."""
    speed, wanted = found.norm(dim=1), _wanted(motions).norm(dim=1)
    return (speed - wanted).abs() <= SPEED_TOLERANCE * wanted


def _wanted(motions: list[str]) -> Tensor:
    still = [motion for motion in motions if motion in OTHER_MOTIONS]
    if still:
        raise ValueError(f"got the motion {still[0]!r}, which has no direction; give those that move along a line")
    return torch.tensor([VELOCITIES[MOTIONS.index(motion)] for motion in motions]).reshape(-1, 2)  # none: [0, 2]


def told_motions(seen: Seen, start: int, end: int) -> list[str]:
    """For each video the motion of the world whose course is nearest to the thing's over the frames start..end-1;
    "nothing there" if fewer than half of the frames show a thing."""
    tracks = Tracks(
        position=seen.position[:, start:end],
        size=seen.size[:, start:end].log(),
        angle=angles(seen.turned[:, start:end]),
        sure=seen.turned[:, start:end].norm(dim=-1).clamp(max=1.0),
    )
    there = (seen.there[:, start:end] > THERE).float()
    names, courses = _courses(end - start)
    best = misfit(tracks, courses, there).argmin(dim=1).tolist()
    shown = (there.mean(dim=1) >= 0.5).tolist()
    return [names[index] if seen_enough else "nothing there" for index, seen_enough in zip(best, shown, strict=True)]


@dataclass(frozen=True)
class Tracks:
    """N things in T frames: `position` [N, T, 2] in frame sides, the logarithm of `size`, `angle` in radians and how
    `sure` it is, from 0 to 1, each [N, T]."""

    position: Tensor
    size: Tensor
    angle: Tensor
    sure: Tensor


def misfit(tracks: Tracks, courses: Tracks, there: Tensor) -> Tensor:
    """How far each of N tracks is from each of M courses, [N, M]: mean over the frames that are `there` [N, T]. A
    course may begin anywhere, at any size and angle."""
    weight = there[:, None]
    count = weight.sum(2).clamp(min=1)
    away = short_way(tracks.position[:, None] - courses.position[None])
    away = short_way(away - _middle(away, weight[..., None], 1.0))
    larger = tracks.size[:, None] - courses.size[None]
    larger = larger - ((larger * weight).sum(2) / count)[..., None]
    turned = short_way(tracks.angle[:, None] - courses.angle[None], FULL_TURN)
    sure = tracks.sure[:, None]
    turned = short_way(turned - _middle(turned, weight * sure, FULL_TURN), FULL_TURN)
    costs = (
        away.square().sum(-1) / POSITION_SPREAD**2 / 2,
        larger.square() / SIZE_SPREAD**2 / 2,
        sure * (1 - turned.cos()) / ANGLE_SPREAD**2,
    )
    clipped = torch.stack([cost.clamp(max=WORST) for cost in costs]).sum(0)
    return (clipped * weight).sum(2) / count


def _middle(values: Tensor, weight: Tensor, whole: float) -> Tensor:
    """Mean over dimension 2 (kept) of values on a circle of length `whole`."""
    phase = values * (math.tau / whole)
    y, x = ((part * weight).sum(2, keepdim=True) for part in (phase.sin(), phase.cos()))
    return torch.atan2(y, x) * (whole / math.tau)


@cache
def _courses(frames: int) -> tuple[list[str], Tracks]:
    """All motions of the world over this many frames; PHASES phases of the periodic ones, and pulsing also at FAINTER
    strength."""
    drawn = [(motion, phase) for motion in MOTIONS for phase in range(PHASES if motion in PERIODIC else 1)]
    faint = [drawn.index(("pulsing", phase)) for phase in range(PHASES)]
    count = len(drawn)
    motions = torch.tensor([MOTIONS.index(motion) for motion, _ in drawn])[:, None].expand(-1, 2)
    phases = torch.tensor([phase / PHASES for _, phase in drawn])[:, None].expand(-1, 2)
    none, middle = torch.zeros(count, dtype=torch.int64), torch.full((count, 2), 0.5)
    scenes = Scenes(
        things=torch.zeros(count, 2, dtype=torch.int64),
        places=none,
        two=none.bool(),
        motions=motions,
        size=none,
        side=middle * 0.75,
        x=middle,
        y=middle,
        phase=phases,
        picture=none,
        zoom=torch.ones(count),
        shift=torch.zeros(count, 2),
        flip=torch.ones(count),
        light=torch.ones(count),
    )
    found = states(scenes, torch.arange(float(frames)).expand(count, -1))
    x, y, side, angle = (value[..., 0] for value in found)
    position, size = torch.stack([x, y], dim=-1), side.log()
    tracks = Tracks(
        position=torch.cat([position, position[faint]]),
        size=torch.cat([size, FAINTER * size[faint]]),
        angle=torch.cat([angle, angle[faint]]),
        sure=torch.ones(count + PHASES, frames),
    )
    return [motion for motion, _ in drawn] + ["pulsing"] * PHASES, tracks
