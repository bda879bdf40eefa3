"""What a training run asks of the synthetic world that it names: frames for the autoencoder, clips for the latents,
captions and words. Everything follows from a seed and numbers, so it can be made in any order, by any process.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..method.randomness import seeded_generator
from ..synthetic.pictures.names import vocabulary as pictures_vocabulary
from ..synthetic.pictures.places import PICTURES
from ..synthetic.pictures.scenes import Scenes, captions, joined
from ..synthetic.pictures.world import NO_WEIGHTS, PictureWorld, Window
from ..synthetic.shapes import SIZES, VALIDATION_SEED, Clip, render, sample_clip, vocabulary
from ..synthetic.shapes import WORLDS as SHAPE_WORLDS

WORLDS = (*SHAPE_WORLDS, "pictures")

BLOCK = 1024
"""Clips of the world of pictures that are drawn by lot together."""

LATEST_FRAME = 12
"""The autoencoder sees pictures up to this frame, when some things have wrapped round."""


class TrainingWorld(Protocol):
    """Sizes are (height, width) in pixels."""

    def vocabulary(self) -> tuple[str, ...]:
        """Every word that a caption can hold."""

    def frames(
        self, seed: int, step: int, indices: range, total: int, size: tuple[int, int], gap: int, crop: int
    ) -> Tensor:
        """For the autoencoder's samples `indices` of `total`: a frame of a clip each, and with a `gap` above 0 the one
        `gap` frames later: [B, 1 or 2, 3, H, W]. With a `crop` above 0 squares of that side, on the object."""

    def validation_frames(self, count: int, size: tuple[int, int]) -> Tensor:
        """Images [count, 3, H, W] that training never sees."""

    def captions(self, seed: int, count: int) -> list[str]:
        """Of the first `count` clips."""

    def clips(
        self, seed: int, numbers: range, length: int, size: tuple[int, int], device: str
    ) -> tuple[Tensor, Tensor | None]:
        """Images [N, T, 3, H, W] of whole clips, and how much of each pixel things cover, [N, T, 1, H, W], where the
        world knows that."""


def training_world(name: str, motion_weights: Mapping[str, float] = NO_WEIGHTS) -> TrainingWorld:
    """The world of that name; only "pictures" has `motion_weights`. ValueError on other names."""
    if name not in WORLDS:
        raise ValueError(f"world: got {name!r}, accepted: {', '.join(WORLDS)}")
    return PicturesTraining(motion_weights) if name == "pictures" else ShapesTraining(name)


class ShapesTraining:
    """The worlds of coloured shapes, "plain" and "detailed"."""

    def __init__(self, name: str) -> None:
        self.name = name

    def vocabulary(self) -> tuple[str, ...]:
        """Every word that a caption can hold."""
        return vocabulary()

    def frames(
        self, seed: int, step: int, indices: range, total: int, size: tuple[int, int], gap: int, crop: int
    ) -> Tensor:
        """[B, 1 or 2, 3, H, W], the first of each clip and one `gap` later; keyed by (seed, step, index)."""
        clips = self._sampled(seed, range((step << 16) + indices.start, (step << 16) + indices.stop))
        frames = render(clips, gap + 1, *size)[:, :: max(1, gap)]
        if not crop:
            return frames
        return torch.stack([
            crop_to_object(pair, clip, crop, random.Random(f"{seed}/{step}/{index}"))
            for pair, clip, index in zip(frames, clips, indices, strict=True)
        ])  # fmt: skip

    def validation_frames(self, count: int, size: tuple[int, int]) -> Tensor:
        """Images [count, 3, H, W] of a seed that is only measured on."""
        return render(self._sampled(VALIDATION_SEED, range(count)), 1, *size)[:, 0]

    def captions(self, seed: int, count: int) -> list[str]:
        """Of the first `count` clips."""
        return [clip.caption for clip in self._sampled(seed, range(count))]

    def clips(
        self, seed: int, numbers: range, length: int, size: tuple[int, int], device: str
    ) -> tuple[Tensor, Tensor | None]:
        """Images [N, T, 3, H, W]; what objects cover is not told."""
        return render(self._sampled(seed, numbers), length, *size, device), None

    def _sampled(self, seed: int, numbers: range) -> list[Clip]:
        return [sample_clip(seed, number, world=self.name) for number in numbers]


def crop_to_object(image: Tensor, clip: Clip, size: int, rng: random.Random) -> Tensor:
    """A square `[..., size, size]` of an image `[..., H, W]`, centred within the object's bounds, inside the frame."""
    reach = SIZES[clip.size] * min(image.shape[-2:])
    top, left = (
        min(max(round(centre * side + rng.uniform(-reach, reach) - size / 2), 0), side - size)
        for centre, side in ((clip.y, image.shape[-2]), (clip.x, image.shape[-1]))
    )
    return image[..., top : top + size, left : left + size]


class PicturesTraining:
    """The world of pictures. Clips are drawn by lot many at a time, and what is asked for is taken out of them.

    `motion_weights`: how many times as often as usual the clips of the latents show a motion. Frames for the
    autoencoder and held-out clips are drawn as usual."""

    def __init__(self, motion_weights: Mapping[str, float] = NO_WEIGHTS) -> None:
        self._motion_weights = motion_weights
        self._worlds: dict[str, PictureWorld] = {}

    def vocabulary(self) -> tuple[str, ...]:
        """Every word that a caption can hold."""
        return pictures_vocabulary()

    def frames(
        self, seed: int, step: int, indices: range, total: int, size: tuple[int, int], gap: int, crop: int
    ) -> Tensor:
        """[B, 1 or 2, 3, H, W] of any of the first frames and one `gap` later; keyed by (seed, step, total)."""
        world, generator, side = self._world("cpu"), seeded_generator(seed, step, "pictures"), _side(size)
        scenes = world.draw(total, generator)
        times = LATEST_FRAME * torch.rand(total, 1, generator=generator)
        window = world.window_on_things(scenes, times[:, 0], crop, generator, side) if crop else None
        part = slice(indices.start, indices.stop)
        if window is not None:
            window = Window(window.origin[part], window.side)
        shown = torch.cat((times, times + gap), dim=1) if gap else times
        return world.render(scenes[part], shown[part], side, window)

    def validation_frames(self, count: int, size: tuple[int, int]) -> Tensor:
        """Images [count, 3, H, W] of held-out pairs of thing and place."""
        world = self._world("cpu")
        return world.render(self.held_out(count), torch.zeros(count, 1), _side(size))[:, 0]

    def held_out(self, count: int) -> Scenes:
        """The first `count`, up to BLOCK, of some scenes of held-out pairs."""
        return self._world("cpu").draw(BLOCK, seeded_generator(VALIDATION_SEED, "pictures"), held_out=True)[:count]

    def captions(self, seed: int, count: int) -> list[str]:
        """Of the first `count` clips."""
        return captions(self._scenes(seed, range(count), "cpu"))

    def clips(
        self, seed: int, numbers: range, length: int, size: tuple[int, int], device: str
    ) -> tuple[Tensor, Tensor | None]:
        """Images [N, T, 3, H, W] and coverage [N, T, 1, H, W] of the frames from 0 on."""
        scenes = self._scenes(seed, numbers, device)
        times = torch.arange(float(length), device=device).expand(len(scenes), -1)
        return self._world(device).layers(scenes, times, _side(size))

    def _scenes(self, seed: int, numbers: range, device: str) -> Scenes:
        """Clip n is the same whichever are asked for with it."""
        first, last = numbers.start // BLOCK, (numbers.stop - 1) // BLOCK
        world = self._world("cpu")
        blocks = [
            world.draw(BLOCK, seeded_generator(seed, block, "clips"), motion_weights=self._motion_weights)
            for block in range(first, last + 1)
        ]
        start = numbers.start - first * BLOCK
        return joined(blocks)[start : start + len(numbers)].to(device)

    def _world(self, device: str) -> PictureWorld:
        if device not in self._worlds:
            self._worlds[device] = PictureWorld(device, PICTURES)
        return self._worlds[device]


def _side(size: Sequence[int]) -> int:
    """Frames of this world are squares. ValueError, one line, for others."""
    if size[0] != size[1]:
        raise ValueError(f"size: got {size[1]}x{size[0]}, but frames of the world of pictures are squares")
    return size[0]
