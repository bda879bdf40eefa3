"""The content of N clips as tensors, and how it is drawn at random: all clips at once, without loops."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .names import (
    DETAILED_PLACES,
    MOTIONS,
    OTHER_MOTIONS,
    PLACES,
    SIZES,
    STANDING_STILL,
    THINGS,
    caption,
    is_held_out,
)

PLAIN_SHARE = 0.25
"""Share of the clips with a plain background."""

LINEAR_SHARE = 0.62
STRAIGHT_WEIGHT, SLANTED_WEIGHT = 1.25, 0.75
"""How often things move parallel to a side of the frame, and diagonally, among all linear motions."""

SMALL_SHARE, LARGE_SHARE = 0.2, 0.2
SAME_MOTION_SHARE = 0.5
"""Share of the clips with two things in which both move alike. In the others the second stands still."""

UPRIGHT_SHARE = 0.4
"""Share of the clips that show the place as it is drawn. In the others a part of it fills the frame."""

LARGEST_ZOOM = 0.2
SIDES_OF_TWO = (40 / 128, 46 / 128)
NEAR, FAR, PLAY = 24 / 128, 92 / 128, 12 / 128
"""Where the centres of two things are: one in the first quarter of the frame, one in the last."""

GROUND, GROUND_PLAY = 4 / 128, 16 / 128
"""How high above the frame's lower border bouncing things touch the ground."""

REACH = 1.1
"""Half a thing's side times this stays inside the frame at time 0, because a thing may turn or grow."""


@dataclass(frozen=True)
class Scenes:
    """N clips. A clip has two things; the second is behind the first, and is shown only if `two` is set.

    Things, places, motions and sizes are indices into the lists of `names`. Lengths are in frame sides, x to the right,
    y down. `side`: sides of the things. `x`, `y`: centres at time 0 (for bouncing things, where they touch the ground).
    `phase`: of periodic motion, in periods. `picture`: which of the place's pictures is shown. It is magnified by
    `zoom`, moved by `shift` (x, y, in half sides of the picture), mirrored if `flip` is -1, and its colours are
    multiplied by `light`.
    """

    things: Tensor  # [N, 2] int64
    places: Tensor  # [N] int64
    two: Tensor  # [N] bool
    motions: Tensor  # [N, 2] int64
    size: Tensor  # [N] int64
    side: Tensor  # [N, 2]
    x: Tensor  # [N, 2]
    y: Tensor  # [N, 2]
    phase: Tensor  # [N, 2], 0 up to 1
    picture: Tensor  # [N] int64
    zoom: Tensor  # [N], at least 1
    shift: Tensor  # [N, 2]
    flip: Tensor  # [N], 1 or -1
    light: Tensor  # [N]

    def __len__(self) -> int:
        return self.places.shape[0]

    def __getitem__(self, index: Any) -> "Scenes":
        """The clips selected by a slice, a mask or a list of numbers."""
        return Scenes(*(value[index] for value in self._tensors()))

    def to(self, device: torch.device | str) -> "Scenes":
        """The same clips on a device."""
        return Scenes(*(value.to(device) for value in self._tensors()))

    def _tensors(self) -> list[Tensor]:
        return [getattr(self, entry.name) for entry in fields(self)]


def joined(parts: Sequence[Scenes]) -> Scenes:
    """All clips of several batches, in order."""
    columns = zip(*(part._tensors() for part in parts), strict=True)
    return Scenes(*(torch.cat(column) for column in columns))


def captions(scenes: Scenes) -> list[str]:
    """The caption of each clip, made by rules."""
    columns = (scenes.things, scenes.motions, scenes.places, scenes.size, scenes.two)
    sizes = list(SIZES)
    return [
        caption(
            THINGS[things[0]],
            MOTIONS[motions[0]],
            PLACES[place],
            sizes[size],
            THINGS[things[1]] if two else "",
            MOTIONS[motions[1]] if two else "",
        )
        for things, motions, place, size, two in zip(*(column.tolist() for column in columns), strict=True)
    ]


class SceneDrawing:
    """Draws random scenes on the generator's device. Nothing is read back, so the host never waits for a GPU.

    `pictures_of` [places]: how many pictures there are of each place.
    """

    def __init__(self, pictures_of: Sequence[int], device: torch.device | str) -> None:
        def table(values: Any, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        self.held_out = table([[is_held_out(k, b) for b in range(len(PLACES))] for k in range(len(THINGS))], torch.bool)
        plain = len(PLACES) - len(DETAILED_PLACES)
        shares = [(1 - PLAIN_SHARE) / len(DETAILED_PLACES)] * len(DETAILED_PLACES) + [PLAIN_SHARE / plain] * plain
        self.place_shares, self.motion_shares = table(shares), table(_motion_shares())
        self.sides, self.pictures_of = table(list(SIZES.values())), table(list(pictures_of))

    def draw(
        self,
        count: int,
        generator: torch.Generator,
        held_out: bool,
        two_share: float,
        motion_weights: Mapping[str, float],
    ) -> Scenes:
        """`count` scenes. The first thing and its place are always a held-out pair, or never one; the second thing and
        the place are never one."""
        lot = _Lots(count, generator)
        first = lot.integers(len(THINGS))
        allowed = self.held_out[first] == held_out
        places = chosen(self.place_shares * allowed, lot.uniform())
        second_allowed = ~self.held_out.T[places]
        second_allowed.scatter_(1, first[:, None], False)
        second = chosen(second_allowed.float(), lot.uniform())
        two = lot.uniform() < two_share
        motions = self._motions(lot, motion_weights)
        size = torch.where(two, 0, _size_by_lot(lot.uniform()))
        side = self._sides(lot, size, two)
        x, y = _centres(lot, two, motions, side)
        zoom = torch.where(lot.uniform() < UPRIGHT_SHARE, 1.0, 1 + LARGEST_ZOOM * lot.uniform())
        return Scenes(
            things=torch.stack((first, second), dim=1),
            places=places,
            two=two,
            motions=motions,
            size=size,
            side=side,
            x=x,
            y=y,
            phase=lot.uniform(2),
            picture=(lot.uniform() * self.pictures_of[places]).long(),
            zoom=zoom,
            shift=(2 * lot.uniform(2) - 1) * (1 - 1 / zoom)[:, None],
            flip=torch.where(lot.uniform() < 0.5, -1.0, 1.0),
            light=0.94 + 0.12 * lot.uniform(),
        )

    def _motions(self, lot: "_Lots", weights: Mapping[str, float]) -> Tensor:
        shares = self.motion_shares
        if weights:
            shares = shares * shares.new_tensor([weights.get(motion, 1.0) for motion in MOTIONS])
        first = chosen(shares.expand(lot.count, -1), lot.uniform())
        second = torch.where(lot.uniform() < SAME_MOTION_SHARE, first, STANDING_STILL)
        return torch.stack((first, second), dim=1)

    def _sides(self, lot: "_Lots", size: Tensor, two: Tensor) -> Tensor:
        low, high = self.sides[size].unbind(dim=1)
        alone = low + (high - low) * lot.uniform()
        least, greatest = SIDES_OF_TWO
        return torch.where(two[:, None], least + (greatest - least) * lot.uniform(2), alone[:, None])


class _Lots:
    """Random numbers for `count` clips."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count, self.generator = count, generator

    def uniform(self, *shape: int) -> Tensor:
        """[count, *shape] in [0, 1)."""
        return torch.rand(self.count, *shape, generator=self.generator, device=self.generator.device)

    def integers(self, end: int) -> Tensor:
        """[count], from 0 up to but not including `end`."""
        return torch.randint(end, (self.count,), generator=self.generator, device=self.generator.device)


def chosen(shares: Tensor, lots: Tensor) -> Tensor:
    """One column for each row of `shares` [N, M], chosen as often as its share says, by a random number [N] in [0, 1).
    Unlike `torch.multinomial` it never waits for a GPU."""
    edges = shares.cumsum(dim=1)
    past = edges <= lots[:, None] * edges[:, -1:]
    # Rounding can put a random number beyond the last edge. It then belongs to the last column with a share: the first
    # one that reaches the edge.
    reached = (edges >= edges[:, -1:]).float().argmax(dim=1)
    return torch.minimum(past.sum(dim=1), reached)


def _motion_shares() -> list[float]:
    linear = len(MOTIONS) - len(OTHER_MOTIONS)
    weights = [STRAIGHT_WEIGHT] * (linear // 2) + [SLANTED_WEIGHT] * (linear // 2)
    others = [(1 - LINEAR_SHARE) / len(OTHER_MOTIONS)] * len(OTHER_MOTIONS)
    return [LINEAR_SHARE / linear * weight for weight in weights] + others


def _size_by_lot(lots: Tensor) -> Tensor:
    names = list(SIZES)
    small, large = names.index("small"), names.index("large")
    rest = torch.where(lots < SMALL_SHARE + LARGE_SHARE, large, 0)
    return torch.where(lots < SMALL_SHARE, small, rest)


def _centres(lot: _Lots, two: Tensor, motions: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """x and y [N, 2]. Two things start apart: side by side, or one above the other."""
    reach = side / 2 * torch.where(motions == STANDING_STILL, 1.0, REACH)
    x, y = (reach + (1 - 2 * reach) * lot.uniform(2) for _ in range(2))
    bouncing = motions == MOTIONS.index("bouncing")
    y = torch.where(bouncing, 1 - side / 2 - GROUND - GROUND_PLAY * lot.uniform(2), y)
    near, far = NEAR + PLAY * lot.uniform(), FAR + PLAY * lot.uniform()
    swapped = (lot.uniform() < 0.5)[:, None]
    apart = torch.where(swapped, torch.stack((far, near), dim=1), torch.stack((near, far), dim=1))
    beside = (lot.uniform() < 0.6) | bouncing.any(dim=1)
    x = torch.where((two & beside)[:, None], apart, x)
    y = torch.where((two & ~beside)[:, None], apart, y)
    return x, y
