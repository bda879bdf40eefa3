"""The judge of the world of pictures: a small network that says of a frame which thing it shows, where, and in which
place.

It never sees the prompt. Its convolutions wrap around the borders, as the world does. Not in the paper.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..synthetic.pictures.names import PLACES, THINGS

SIDE = 128
"""The judge's input size in pixels. Other frames are resized to it."""
CELL = 8
CHANNELS = (48, 96)
SUMMARY = 192
FULL_TURN = math.tau
MEAN_SIZE = 0.37
"""In frame sides. The network gives sizes as the logarithm of size / MEAN_SIZE."""


@dataclass(frozen=True)
class Seen:
    """What the judge sees in frames [N, T]. Lengths are in frame sides; y points down.

    `things` [N, T, K] and `places` [N, T, P]: probabilities. `there` [N, T]: the probability that there is a thing.
    `position` [N, T, 2]: (x, y) of its middle, in [0, 1). `size` [N, T]: side of its picture. `turned` [N, T, 2]:
    cosine and sine of its angle, clockwise from upright; shorter than 1 if the network is not sure.
    """

    things: Tensor
    places: Tensor
    there: Tensor
    position: Tensor
    size: Tensor
    turned: Tensor


class Block(nn.Module):
    """A convolution that wraps around the borders, with a norm; residual if the number of channels does not change."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, stride, 1, padding_mode="circular", bias=False)
        self.norm = nn.GroupNorm(8, out)
        self.residual = channels == out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> [N, C', h', w']."""
        out = F.silu(self.norm(self.conv(x)))
        return x + out if self.residual else out


class Judge(nn.Module):
    """Frames [N, 3, 128, 128] in [0, 1] -> `RawSight`."""

    def __init__(self) -> None:
        super().__init__()
        fine, coarse = CHANNELS
        self.trunk = nn.Sequential(
            nn.PixelUnshuffle(4),
            Block(48, fine),
            Block(fine, fine),
            Block(fine, coarse, stride=2),
            *(Block(coarse, coarse) for _ in range(4)),
        )
        self.where = nn.Conv2d(coarse, 3, 1)
        self.thing_features = nn.Conv2d(coarse, SUMMARY, 1)
        self.place_features = nn.Conv2d(coarse, coarse, 1)
        self.norm = nn.LayerNorm(SUMMARY)
        self.thing = nn.Linear(SUMMARY, len(THINGS))
        self.turned = nn.Linear(SUMMARY, 2 * len(THINGS))
        self.size = nn.Linear(SUMMARY, 1)
        self.there = nn.Linear(SUMMARY + 1, 1)
        self.place = nn.Linear(2 * coarse, len(PLACES))
        for head in (self.turned, self.size):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, frames: Tensor) -> "RawSight":
        """See `RawSight`."""
        features = self.trunk(frames * 4 - 2)
        heat, x, y = self.where(features).float().unbind(1)
        attention = heat.flatten(1).softmax(1).view_as(heat)
        near = F.avg_pool2d(F.pad(attention[:, None], (1, 1, 1, 1), mode="circular"), 3, stride=1)
        summary = self.norm((F.silu(self.thing_features(features)).float() * near).sum(dim=(2, 3)))
        scene = F.silu(self.place_features(features)).float()
        around = torch.cat([scene.mean(dim=(2, 3)), scene.amax(dim=(2, 3))], dim=1)
        strength = heat.flatten(1).logsumexp(1, keepdim=True) / 8
        return RawSight(
            things=self.thing(summary).float(),
            places=self.place(around).float(),
            there=self.there(torch.cat([summary, strength], dim=1)).float()[:, 0],
            heat=heat,
            offset=torch.stack([x, y], dim=1),
            turned=self.turned(summary).float().unflatten(1, (-1, 2)),
            size=self.size(summary).float()[:, 0],
        )


@dataclass(frozen=True)
class RawSight:
    """The network's own output: logits `things` [N, K], `places` [N, P], `there` [N] and `heat` [N, h, w] (which cell
    contains the thing's middle); `offset` [N, 2, h, w], (x, y) from a cell's middle to the thing's, in cells; `turned`
    [N, K, 2]: cosine and sine of the angle, for each thing that it could be; `size` [N]: the logarithm of size /
    MEAN_SIZE."""

    things: Tensor
    places: Tensor
    there: Tensor
    heat: Tensor
    offset: Tensor
    turned: Tensor
    size: Tensor

    def read(self) -> Seen:
        """The output as `Seen`, for N frames and without the dimension T."""
        things = self.things.softmax(1)
        return Seen(
            things=things,
            places=self.places.softmax(1),
            there=self.there.sigmoid(),
            position=self._position(),
            size=MEAN_SIZE * self.size.exp(),
            turned=self.turned[torch.arange(len(things)), things.argmax(1)],
        )

    def _position(self) -> Tensor:
        """The position that the strongest cell and its neighbours predict, as their weighted mean: [N, 2] in [0, 1)."""
        height, width = self.heat.shape[1:]
        weight = self.heat.flatten(1).softmax(1)
        best = weight.argmax(1)
        middle = torch.stack([best % width, best // width], dim=1)[:, None] + 0.5
        said = short_way(_cells(height, width) + self.offset.flatten(2).transpose(1, 2) - middle, height)
        near = weight * (said.abs().amax(dim=2) < 2)
        found = middle[:, 0] + (near[..., None] * said).sum(1) / near.sum(1, keepdim=True).clamp(min=1e-9)
        return found / height % 1.0


def _cells(height: int, width: int) -> Tensor:
    """Middles of all cells, (x, y) in cells: [h * w, 2]."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


@torch.no_grad()
def see(judge: Judge, videos: Tensor, batch: int = 64) -> Seen:
    """What the judge sees in videos [N, T, 3, H, W] in [0, 1]. It looks on its own device; the result is on the CPU."""
    parts, device = [], judge.size.weight.device
    for part in videos.flatten(0, 1).split(batch):
        with device:
            parts.append(judge(_resized(part.to(device).float().clamp(0, 1))).read())
    whole = {field.name: torch.cat([getattr(part, field.name).cpu() for part in parts]) for field in fields(Seen)}
    return Seen(**{name: values.unflatten(0, videos.shape[:2]) for name, values in whole.items()})


def _resized(frames: Tensor) -> Tensor:
    if frames.shape[-2:] == (SIDE, SIDE):
        return frames
    return F.interpolate(frames, size=(SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def judge_loss(sight: RawSight, labels: "Labels") -> dict[str, Tensor]:
    """Losses by name, each a mean over the batch. Losses about the thing use only frames that show one."""
    there = labels.there
    count = there.sum().clamp(min=1)

    def shown(values: Tensor) -> Tensor:
        return (values * there).sum() / count

    height, width = sight.heat.shape[1:]
    away = short_way(labels.position[:, None] * height - _cells(height, width), height)
    cell = away.abs().amax(dim=2).argmin(1)
    close = (away.abs().amax(dim=2) < 1.5).float()
    miss = (sight.offset.flatten(2).transpose(1, 2) - away).abs().mean(dim=2)
    turned = sight.turned[torch.arange(len(there)), labels.thing]
    angle = torch.stack([labels.angle.cos(), labels.angle.sin()], dim=1)
    return {
        "thing": shown(F.cross_entropy(sight.things, labels.thing, reduction="none", label_smoothing=0.05)),
        "place": F.cross_entropy(sight.places, labels.place, label_smoothing=0.02),
        "there": F.binary_cross_entropy_with_logits(sight.there, there),
        "cell": shown(F.cross_entropy(sight.heat.flatten(1), cell, reduction="none")),
        "offset": shown((miss * close).sum(1) / close.sum(1)),
        "angle": shown((turned - angle).square().sum(1)),
        "size": shown((sight.size - (labels.size / MEAN_SIZE).log()).abs()),
    }


@dataclass(frozen=True)
class Labels:
    """What frames [N] really show: `thing` and `place` are indices, `there` 1 or 0, `position` [N, 2] (x, y) and `size`
    in frame sides, `angle` in radians, clockwise."""

    thing: Tensor
    place: Tensor
    there: Tensor
    position: Tensor
    size: Tensor
    angle: Tensor


def save_judge(judge: Judge, path: Path, about: dict[str, Any]) -> None:
    """Write the weights in half precision, with `about` (JSON) and the names of things and places in the file's
    metadata."""
    named = about | {"things": THINGS, "places": PLACES}
    weights = {name: value.detach().half().contiguous() for name, value in judge.state_dict().items()}
    save_file(weights, path, {"judge": json.dumps(named)})


def load_judge(path: Path) -> Judge:
    """A judge that is ready to `see`. Raises ValueError if it was trained for other things or places."""
    with safe_open(path, framework="pt") as file:
        about = json.loads((file.metadata() or {}).get("judge", "{}"))
        weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    if (about.get("things"), about.get("places")) != (list(THINGS), list(PLACES)):
        raise ValueError(f"{path} was trained for other things or places than the world has; train it again")
    judge = Judge()
    judge.load_state_dict(weights)
    return judge.eval().requires_grad_(False)


def named(probabilities: Tensor, names: Sequence[str]) -> list[str]:
    """The most likely names for probabilities [N, K]."""
    return [names[index] for index in probabilities.argmax(-1).tolist()]


def angles(turned: Tensor) -> Tensor:
    """Radians of `Seen.turned`: [..., 2] -> [...], in (-pi, pi]."""
    return torch.atan2(turned[..., 1], turned[..., 0])


def short_way(change: Tensor, whole: float = 1.0) -> Tensor:
    """Differences on a circle of length `whole`, the shorter way around."""
    return (change + whole / 2) % whole - whole / 2
