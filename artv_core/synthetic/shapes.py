"""A small synthetic world: a coloured shape moves on a coloured background, and a caption names all of it.

The world wraps around at its borders, so that linear motion never ends. Everything about clip `index` depends only on
(seed, index), so clips can be made in any order, on any machine. Lengths are fractions of the frame's short side,
speeds are lengths per frame. In the world "detailed" the same clips have scenery: a finely textured background, and
small shapes on it that stand still. Not in the paper.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.12, 0.12),
    "orange": (0.98, 0.55, 0.08),
    "yellow": (0.96, 0.90, 0.16),
    "green": (0.13, 0.62, 0.22),
    "blue": (0.13, 0.30, 0.86),
    "purple": (0.55, 0.20, 0.70),
    "white": (0.95, 0.95, 0.95),
    "black": (0.06, 0.06, 0.06),
}
KINDS = ("circle", "square", "triangle", "star")
SIZES = {"small": 0.165, "medium": 0.215, "large": 0.275}
SPEEDS = {"slowly": 0.078, "fast": 0.156}
DIRECTIONS: dict[str, tuple[float, float]] = {
    "right": (1.0, 0.0),
    "down and right": (math.sqrt(0.5), math.sqrt(0.5)),
    "down": (0.0, 1.0),
    "down and left": (-math.sqrt(0.5), math.sqrt(0.5)),
    "left": (-1.0, 0.0),
    "up and left": (-math.sqrt(0.5), -math.sqrt(0.5)),
    "up": (0.0, -1.0),
    "up and right": (math.sqrt(0.5), -math.sqrt(0.5)),
}
OTHER_MOTIONS = ("standing still", "circling", "pulsing")
TEXTURES = ("plain", "striped")
CIRCLING_RADIUS = 0.22
CIRCLING_PERIOD = 12.0
PULSING_PERIOD = 8.0
NUM_HELD_OUT = 64
VALIDATION_SEED = -1
"""The seed of the world that is used only for measuring."""
WORLDS = ("plain", "detailed")
GRAINS = ("noise", "checks", "hatching", "dots")
GRAIN_CONTRAST = (0.10, 0.22)
GRAIN_PERIOD = (11 / 64, 18 / 64)
"""In short sides. At 64x64 this is about 1.4 to 2.3 cells of latents, which keep almost nothing of finer textures."""
NUM_BYSTANDERS = (3, 6)
BYSTANDER_RADIUS = (0.05, 0.10)


@dataclass(frozen=True)
class Bystander:
    """A shape that stands still on the background. `size` is its radius; `x`, `y` and `tint` are as for a clip."""

    kind: str
    color: str
    size: float
    x: float
    y: float
    tint: float


@dataclass(frozen=True)
class Clip:
    """One clip of the world. `x`, `y` in [0, 1) of the frame's sides; the tints vary the colours.

    Scenery, only in the detailed world: `grain` is how far the background's fine texture varies to either side of its
    colour (0: no texture), `grain_kind` one of GRAINS; `grain_seed` decides scale, angle and phases of the texture.
    """

    color: str
    kind: str
    size: str
    texture: str
    motion: str  # a key of DIRECTIONS, or one of OTHER_MOTIONS
    speed: str  # a key of SPEEDS; ignored for OTHER_MOTIONS
    background: str
    x: float
    y: float
    phase: float
    tint: float
    background_tint: float
    caption: str
    grain: float = 0.0
    grain_kind: str = GRAINS[0]
    grain_seed: int = 0
    bystanders: tuple[Bystander, ...] = ()

    @property
    def velocity(self) -> tuple[float, float] | None:
        """(x, y) in short sides per frame for a linear motion, else None."""
        if self.motion not in DIRECTIONS:
            return None
        dx, dy = DIRECTIONS[self.motion]
        return dx * SPEEDS[self.speed], dy * SPEEDS[self.speed]


def describe(color: str, kind: str, size: str, texture: str, motion: str, speed: str, background: str) -> str:
    """The caption in the fixed word order of the training data. Empty strings leave a word out."""
    words = [size, color, texture if texture != "plain" else "", kind]
    subject = " ".join(word for word in words if word)
    article = "an" if subject[0] in "aeiou" else "a"
    moving = " ".join(word for word in ("moving", motion, speed) if word) if motion in DIRECTIONS else motion
    ground = f"on {'an' if background[0] in 'aeiou' else 'a'} {background} background"
    return " ".join(part for part in (article, subject, moving, ground) if part)


def vocabulary() -> tuple[str, ...]:
    """Every word a caption can contain, sorted."""
    phrases = [*COLORS, *KINDS, *SIZES, *SPEEDS, *DIRECTIONS, *OTHER_MOTIONS, "striped", "a an moving on background"]
    return tuple(sorted({word for phrase in phrases for word in phrase.split()}))


def held_out_combinations() -> frozenset[tuple[str, str, str]]:
    """The (colour, kind, background) triples that training never draws; for measuring only."""
    triples = [(c, k, b) for c in COLORS for k in KINDS for b in COLORS if c != b]
    return frozenset(random.Random(64).sample(triples, NUM_HELD_OUT))


_HELD_OUT = held_out_combinations()


def sample_clip(seed: int, index: int, held_out: bool = False, world: str = "plain") -> Clip:
    """Clip `index` of the world `seed`. With `held_out` it is always one of the held-out triples, otherwise never. In
    the world "detailed" it is the plain world's clip with scenery. Raises ValueError on a world that is not one of
    WORLDS."""
    if world not in WORLDS:
        raise ValueError(f"world: got {world!r}, accepted: {', '.join(WORLDS)}")
    clip = _sample_plain(random.Random(f"{seed}/{index}/{held_out}"), held_out)
    return clip if world == "plain" else add_scenery(clip, random.Random(f"{seed}/{index}/{held_out}/detailed"))


def _sample_plain(rng: random.Random, held_out: bool) -> Clip:
    while True:
        color, kind, background = rng.choice(list(COLORS)), rng.choice(KINDS), rng.choice(list(COLORS))
        if color != background and ((color, kind, background) in _HELD_OUT) == held_out:
            break
    size, speed = rng.choice(list(SIZES)), rng.choice(list(SPEEDS))
    texture = "striped" if rng.random() < 0.15 else "plain"
    motion = rng.choice(list(DIRECTIONS)) if rng.random() < 0.85 else rng.choice(OTHER_MOTIONS)
    said_size = size if rng.random() < 0.85 else ""
    said_speed = speed if rng.random() < 0.85 else ""
    return Clip(
        color=color,
        kind=kind,
        size=size,
        texture=texture,
        motion=motion,
        speed=speed,
        background=background,
        x=rng.random(),
        y=rng.random(),
        phase=rng.random() * math.tau,
        tint=rng.uniform(-0.05, 0.05),
        background_tint=rng.uniform(-0.05, 0.05),
        caption=describe(color, kind, said_size, texture, motion, said_speed, background),
    )


def add_scenery(clip: Clip, rng: random.Random) -> Clip:
    """The clip in the detailed world. No bystander has the colour of the moving object or of the background, or makes a
    held-out triple with the background. The caption does not mention bystanders."""
    looks = [
        (color, kind)
        for color in COLORS
        for kind in KINDS
        if color not in (clip.color, clip.background) and (color, kind, clip.background) not in _HELD_OUT
    ]
    return replace(
        clip,
        grain=rng.uniform(*GRAIN_CONTRAST),
        grain_kind=rng.choice(GRAINS),
        grain_seed=rng.getrandbits(32),
        bystanders=tuple(_sample_bystander(looks, rng) for _ in range(rng.randint(*NUM_BYSTANDERS))),
    )


def _sample_bystander(looks: Sequence[tuple[str, str]], rng: random.Random) -> Bystander:
    color, kind = rng.choice(looks)
    return Bystander(
        kind=kind,
        color=color,
        size=rng.uniform(*BYSTANDER_RADIUS),
        x=rng.random(),
        y=rng.random(),
        tint=rng.uniform(-0.05, 0.05),
    )


def trajectory(clip: Clip, num_frames: int) -> tuple[Tensor, Tensor]:
    """Offset from the start `[T, 2]` (x, y in short sides) and radius `[T]` of each frame."""
    time = torch.arange(num_frames, dtype=torch.float32)
    offset, radius = torch.zeros(num_frames, 2), torch.full((num_frames,), SIZES[clip.size])
    if clip.velocity is not None:
        offset = time[:, None] * torch.tensor(clip.velocity)
    elif clip.motion == "circling":
        angle = clip.phase + math.tau * time / CIRCLING_PERIOD
        offset = CIRCLING_RADIUS * torch.stack((angle.cos(), angle.sin()), dim=-1)
    elif clip.motion == "pulsing":
        radius = radius * (1 + 0.3 * torch.sin(clip.phase + math.tau * time / PULSING_PERIOD))
    return offset, radius


def render(clips: Sequence[Clip], num_frames: int, height: int, width: int, device: str = "cpu") -> Tensor:
    """Images `[N, T, 3, H, W]` float32 in [0, 1], shapes anti-aliased by their signed distance."""
    short = min(height, width)
    paths = [trajectory(clip, num_frames) for clip in clips]
    offset = torch.stack([path[0] for path in paths]).to(device)  # [N, T, 2]
    radius = torch.stack([path[1] for path in paths]).to(device)[:, :, None, None]  # [N, T, 1, 1]
    dx, dy = _displacement(clips, offset, height, width)
    covered = _covered(clips, dx, dy, radius, short)
    striped = torch.tensor([clip.texture == "striped" for clip in clips], device=device)[:, None, None, None]
    light = _light(dx, dy, radius)
    light = torch.where(striped, _with_stripes(light, dx, dy), light)
    return covered * _paint(clips, light) + (1 - covered) * ground(clips, height, width, device)[:, None]


def ground(clips: Sequence[Clip], height: int, width: int, device: str = "cpu") -> Tensor:
    """The scene without the moving object, the same in every frame: [N, 3, H, W] float32 in [0, 1]."""
    color = _tinted([clip.background for clip in clips], [clip.background_tint for clip in clips], device)
    rows = torch.linspace(1.05, 0.95, height, device=device)[:, None].expand(height, width)
    image = (color * rows).clamp(0, 1)
    for number, clip in enumerate(clips):
        if clip.grain:
            image[number] = (image[number] + clip.grain * _grain(clip, height, width, device)).clamp(0, 1)
    if any(clip.bystanders for clip in clips):
        _draw_bystanders(image, clips)
    return image


def _draw_bystanders(image: Tensor, clips: Sequence[Clip]) -> None:
    """Draw each clip's bystanders in their order onto [N, 3, H, W], in place."""
    height, width = image.shape[-2:]
    owners = [number for number, clip in enumerate(clips) for _ in clip.bystanders]
    drawn = [bystander for clip in clips for bystander in clip.bystanders]
    radius = torch.tensor([bystander.size for bystander in drawn], device=image.device)[:, None, None, None]
    still = torch.zeros(len(drawn), 1, 2, device=image.device)
    dx, dy = _displacement(drawn, still, height, width)
    covered = _covered(drawn, dx, dy, radius, min(height, width))[:, 0]
    paint = _paint(drawn, _light(dx, dy, radius))[:, 0]
    for owner, over, color in zip(owners, covered, paint, strict=True):
        image[owner] = over * color + (1 - over) * image[owner]


def _grain(clip: Clip, height: int, width: int, device: str) -> Tensor:
    """The texture [H, W] in [-1, 1]. It need not wrap around at the borders, because it stands still."""
    rng, short = random.Random(clip.grain_seed), min(height, width)
    y = ((torch.arange(height, device=device) + 0.5) / short)[:, None]
    x = ((torch.arange(width, device=device) + 0.5) / short)[None, :]
    if clip.grain_kind == "noise":
        waves = [_wave(x, y, rng.uniform(*GRAIN_PERIOD), rng.uniform(0, math.pi), rng) for _ in range(16)]
        return (torch.stack(waves).sum(dim=0) / 5).clamp(-1, 1)
    period, angle = rng.uniform(*GRAIN_PERIOD), rng.uniform(0, math.pi)
    if clip.grain_kind == "checks":
        period *= math.sqrt(2)  # the product of two waves is a sum of finer waves
    along, across = _wave(x, y, period, angle, rng), _wave(x, y, period, angle + math.pi / 2, rng)
    pattern = {"hatching": along, "checks": along * across * 2, "dots": along + across - 0.5}[clip.grain_kind]
    return (2 * pattern).clamp(-1, 1)


def _wave(x: Tensor, y: Tensor, period: float, angle: float, rng: random.Random) -> Tensor:
    """A plane wave of random phase: [H, W] in [-1, 1]."""
    return torch.sin((x * math.cos(angle) + y * math.sin(angle)) * math.tau / period + rng.uniform(0, math.tau))


def coverage(kind: str, radius: float, height: int, width: int) -> Tensor:
    """How much of each pixel a shape in the middle of the frame covers: [H, W] in [0, 1]."""
    short = min(height, width)
    y = (torch.arange(height) + 0.5 - height / 2)[:, None] / short
    x = (torch.arange(width) + 0.5 - width / 2)[None, :] / short
    x, y = torch.broadcast_tensors(x, y)
    return (0.5 - _DISTANCES[kind](x, y, torch.tensor(radius)) * short).clamp(0, 1)


def _wrapped(start: list[float], offset: Tensor, length: int, short: int) -> Tensor:
    """Signed distance of each pixel centre from the object along one axis, the shorter way around: `[N, T, length]`."""
    extent = length / short
    centre = torch.tensor(start, device=offset.device)[:, None] * extent + offset  # [N, T]
    pixels = (torch.arange(length, device=offset.device) + 0.5) / short
    return torch.remainder(pixels - centre[..., None] + extent / 2, extent) - extent / 2


def _displacement(things: Sequence[Clip | Bystander], offset: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """From things that moved by `offset` [N, T, 2] to each pixel centre: x and y `[N, T, H, W]`, in short sides."""
    short = min(height, width)
    dx = _wrapped([thing.x for thing in things], offset[..., 0], width, short)[:, :, None, :]  # [N, T, 1, W]
    dy = _wrapped([thing.y for thing in things], offset[..., 1], height, short)[:, :, :, None]  # [N, T, H, 1]
    dx, dy = torch.broadcast_tensors(dx, dy)
    return dx, dy


def _covered(things: Sequence[Clip | Bystander], dx: Tensor, dy: Tensor, radius: Tensor, short: int) -> Tensor:
    """How much of each pixel each shape covers: `[N, T, 1, H, W]` in [0, 1]."""
    distance = torch.empty_like(dx)
    for kind in KINDS:
        chosen = torch.tensor([thing.kind == kind for thing in things], device=dx.device)
        if chosen.any():
            distance[chosen] = _DISTANCES[kind](dx[chosen], dy[chosen], radius[chosen])
    return (0.5 - distance * short).clamp(0, 1)[:, :, None]


def _light(dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    """Light on the things, from above left: `[N, T, H, W]` around 1."""
    return 1 - 0.10 * ((dx + dy) / radius).clamp(-1, 1)


def _with_stripes(light: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Add broad darker stripes."""
    stripes = torch.sigmoid(torch.sin((dx + dy) * math.tau / 0.17) * 6)
    return light * (1 - 0.45 * stripes) + 0.10 * stripes


def _paint(things: Sequence[Clip | Bystander], light: Tensor) -> Tensor:
    """The things' own colours `[N, T, 3, H, W]`."""
    color = _tinted([thing.color for thing in things], [thing.tint for thing in things], light.device)
    return (color[:, None] * light[:, :, None]).clamp(0, 1)


def _tinted(names: list[str], tints: list[float], device: torch.device | str) -> Tensor:
    color = torch.tensor([COLORS[name] for name in names], device=device)
    return (color + torch.tensor(tints, device=device)[:, None]).clamp(0, 1)[:, :, None, None]  # [N, 3, 1, 1]


def _circle(dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    return torch.hypot(dx, dy) - radius


def _square(dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    half = radius * 0.86
    qx, qy = dx.abs() - half, dy.abs() - half
    return torch.hypot(qx.clamp(min=0), qy.clamp(min=0)) + torch.maximum(qx, qy).clamp(max=0)


def _polygon(dx: Tensor, dy: Tensor, radius: Tensor, points: Sequence[tuple[float, float]]) -> Tensor:
    """Signed distance to a closed polygon given in units of the radius: distance to the nearest edge, with the side
    found by counting crossings."""
    nearest = torch.full_like(dx, torch.inf)
    inside = torch.zeros_like(dx, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(points, (*points[1:], points[0]), strict=True):
        px, py = dx - ax * radius, dy - ay * radius
        ex, ey = (bx - ax) * radius, (by - ay) * radius
        along = ((px * ex + py * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        nearest = torch.minimum(nearest, (px - along * ex).square() + (py - along * ey).square())
        spans = (py < 0) != (dy - by * radius < 0)
        if ay != by:
            inside ^= spans & (px < ex * py / ey)
    return nearest.sqrt() * torch.where(inside, -1.0, 1.0)


def _corners(count: int, inner: float | None = None) -> list[tuple[float, float]]:
    """Corners of a regular polygon with a corner at the top; with `inner`, of a star whose notches are at that
    radius."""
    radii = [1.1] if inner is None else [1.2, inner]
    angles = [math.tau * i / (count * len(radii)) - math.pi / 2 for i in range(count * len(radii))]
    return [(radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a)) for i, a in enumerate(angles)]


_TRIANGLE, _STAR = _corners(3), _corners(5, inner=0.55)
_DISTANCES = {
    "circle": _circle,
    "square": _square,
    "triangle": lambda dx, dy, radius: _polygon(dx, dy, radius, _TRIANGLE),
    "star": lambda dx, dy, radius: _polygon(dx, dy, radius, _STAR),
}
