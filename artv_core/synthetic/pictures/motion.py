"""Where the things of a scene are at any time, how large they are, and how far they are turned. Lengths are in frame
sides; y points down."""

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from .names import MOTIONS, TURNS, VELOCITIES
from .scenes import Scenes

BOUNCE_HEIGHT, BOUNCE_FRAMES = 40 / 128, 9
SWING_ANGLE, SWING_FRAMES = math.radians(28), 12
PULSE, PULSE_FRAMES = 0.22, 10
"""Periods are in frames: of bouncing from ground to ground, of the others back to the same state. PULSE is a share of
the size."""


class States(NamedTuple):
    """The states of both things of N scenes at T times, each [N, T, 2]. Centres go on beyond the frame's borders, so
    that their differences are velocities; things are drawn at the remainder modulo 1. `angle` is in radians,
    clockwise."""

    x: Tensor
    y: Tensor
    side: Tensor
    angle: Tensor


def states(scenes: Scenes, times: Tensor) -> States:
    """The states at `times` [N, T], in frames; these may be fractions, or negative."""
    times, motions = times[:, :, None], scenes.motions[:, None]  # [N, T, 1], [N, 1, 2]
    x, y, side, phase = (value[:, None] for value in (scenes.x, scenes.y, scenes.side, scenes.phase))
    velocity = _velocities(motions.device)[motions]  # [N, 1, 2, 2]
    x, y = x + velocity[..., 0] * times, y + velocity[..., 1] * times
    y = y - _is("bouncing", motions) * BOUNCE_HEIGHT * torch.sin(math.pi * (times / BOUNCE_FRAMES + phase)).abs()
    angle = _turned(motions, phase, times)
    # A thing swings around the middle of its upper border.
    swung = _is("swinging", motions) * SWING_ANGLE * torch.sin(math.tau * (times / SWING_FRAMES + phase))
    x, y = x - side / 2 * torch.sin(swung), y - side / 2 * (1 - torch.cos(swung))
    grown = 1 + _is("pulsing", motions) * PULSE * torch.sin(math.tau * (times / PULSE_FRAMES + phase))
    return States(x, y, side * grown, angle + swung)


def _turned(motions: Tensor, phase: Tensor, times: Tensor) -> Tensor:
    """Angle of spinning things: half of them start upright, the others anywhere."""
    speed = _turning_speeds(motions.device)[motions]
    start = torch.where((speed > 0) & (phase > 0.5), math.tau * phase, 0.0)
    return start + speed * times


def _is(motion: str, motions: Tensor) -> Tensor:
    return (motions == MOTIONS.index(motion)).float()


@cache
def _velocities(device: torch.device) -> Tensor:
    return torch.tensor(VELOCITIES, device=device)


@cache
def _turning_speeds(device: torch.device) -> Tensor:
    return torch.tensor([TURNS.get(motion, 0.0) for motion in MOTIONS], device=device)
