"""What a training run needs of a synthetic world: frames for the autoencoder, clips for the latents, captions and
words. Everything depends only on a seed and numbers, so any process can make it in any order."""

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
"""Number of clips of the world of pictures that are drawn together."""

LATEST_FRAME = 12
"""The autoencoder sees pictures up to this frame, when some things have wrapped around."""


class TrainingWorld(Protocol):
    """Sizes are (height, width) in pixels."""

    def vocabulary(self) -> tuple[str, ...]:
        """Every word that a caption can contain."""

    def frames(
        self, seed: int, step: int, indices: range, total: int, size: tuple[int, int], gap: int, crop: int
    ) -> Tensor:
        """Frames for the autoencoder's samples `indices` of `total`, [B, 1 or 2, 3, H, W]: one frame of a clip each,
        and with a `gap` above 0 also the frame `gap` frames later. With a `crop` above 0, squares with that side around
        the object."""

    def validation_frames(self, count: int, size: tuple[int, int]) -> Tensor:
        """Images [count, 3, H, W] that training never sees."""

    def captions(self, seed: int, count: int) -> list[str]:
        """Captions of the first `count` clips."""

    def clips(
        self, seed: int, numbers: range, length: int, size: tuple[int, int], device: str
    ) -> tuple[Tensor, Tensor | None]:
        """Images [N, T, 3, H, W] of whole clips, and how much of each pixel is covered by things, [N, T, 1, H, W], or
        None if the world does not know."""


def training_world(name: str, motion_weights: Mapping[str, float] = NO_WEIGHTS) -> TrainingWorld:
    """The world with this name; only "pictures" uses `motion_weights`. Raises ValueError for other names."""
    if name not in WORLDS:
        raise ValueError(f"world: got {name!r}, accepted: {', '.join(WORLDS)}")
    return PicturesTraining(motion_weights) if name == "pictures" else ShapesTraining(name)


class ShapesTraining:
    """The worlds of coloured shapes, "plain" and "detailed"."""

    def __init__(self, name: str) -> None:
        self.name = name

    def vocabulary(self) -> tuple[str, ...]:
        """Every word that a caption can contain."""
        return vocabulary()

    def frames(
        self, seed: int, step: int, indices: range, total: int, size: tuple[int, int], gap: int, crop: int
    ) -> Tensor:
        """[B, 1 or 2, 3, H, W], the first frame of each clip and the one `gap` later; keyed by (seed, step, index)."""
        clips = self._sampled(seed, range((step << 16) + indices.start, (step << 16) + indices.stop))
        frames = render(clips, gap + 1, *size)[:, :: max(1, gap)]
        if not crop:
            return frames
        return torch.stack([
            crop_to_object(pair, clip, crop, random.Random(f"{seed}/{step}/{index}"))
            for pair, clip, index in zip(frames, clips, indices, strict=True)
        ])  # fmt: skip

    def validation_frames(self, count: int, size: tuple[int, int]) -> Tensor:
        """Images [count, 3, H, W] of a seed that is only used for measuring."""
        return render(self._sampled(VALIDATION_SEED, range(count)), 1, *size)[:, 0]

    def captions(self, seed: int, count: int) -> list[str]:
        """Captions of the first `count` clips."""
        return [clip.caption for clip in self._sampled(seed, range(count))]

    def clips(
        self, seed: int, numbers: range, length: int, size: tuple[int, int], device: str
    ) -> tuple[Tensor, Tensor | None]:
        """Images [N, T, 3, H, W], and None for the coverage."""
        return render(self._sampled(seed, numbers), length, *size, device), None

    def _sampled(self, seed: int, numbers: range) -> list[Clip]:
        return [sample_clip(seed, number, world=self.name) for number in numbers]


def crop_to_object(image: Tensor, clip: Clip, size: int, rng: random.Random) -> Tensor:
    """A square `[..., size, size]` cut from an image `[..., H, W]`: its centre is within the object's bounds, and it
    stays inside the frame."""
    reach = SIZES[clip.size] * min(image.shape[-2:])
    top, left = (
        min(max(round(centre * side + rng.uniform(-reach, reach) - size / 2), 0), side - size)
        for centre, side in ((clip.y, image.shape[-2]), (clip.x, image.shape[-1]))
    )
    return image[..., top : top + size, left : left + size]


class PicturesTraining:
    """The world of pictures. Clips are drawn many at a time, and the requested ones are taken out of them.

    `motion_weights`: how many times as often as usual the clips for the latents show a motion. Frames for the
    autoencoder and held-out clips are drawn as usual.
    """

    def __init__(self, motion_weights: Mapping[str, float] = NO_WEIGHTS) -> None:
        self._motion_weights = motion_weights
        self._worlds: dict[str, PictureWorld] = {}

    def vocabulary(self) -> tuple[str, ...]:
        """Every word that a caption can contain."""
        return pictures_vocabulary()

    def frames(
        self, seed: int, step: int, indices: range, total: int, size: tuple[int, int], gap: int, crop: int
    ) -> Tensor:
        """[B, 1 or 2, 3, H, W], one of the first frames of each clip and the one `gap` later; keyed by (seed, step,
        total)."""
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
        """The first `count` of a fixed set of BLOCK scenes of held-out pairs."""
        return self._world("cpu").draw(BLOCK, seeded_generator(VALIDATION_SEED, "pictures"), held_out=True)[:count]

    def captions(self, seed: int, count: int) -> list[str]:
        """Captions of the first `count` clips."""
        return captions(self._scenes(seed, range(count), "cpu"))

    def clips(
        self, seed: int, numbers: range, length: int, size: tuple[int, int], device: str
    ) -> tuple[Tensor, Tensor | None]:
        """Images [N, T, 3, H, W] and coverage [N, T, 1, H, W] of the frames from 0 on."""
        scenes = self._scenes(seed, numbers, device)
        times = torch.arange(float(length), device=device).expand(len(scenes), -1)
        return self._world(device).layers(scenes, times, _side(size))

    def _scenes(self, seed: int, numbers: range, device: str) -> Scenes:
        """Clip n is the same whatever other clips are requested with it."""
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
    """The side of a frame, which must be a square in this world. Raises ValueError for other sizes."""
    if size[0] != size[1]:
        raise ValueError(f"size: got {size[1]}x{size[0]}, but frames of the world of pictures must be square")
    return size[0]
