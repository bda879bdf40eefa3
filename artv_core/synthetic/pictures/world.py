"""The world of pictures: scenes drawn at random and rendered, all clips of a batch at once, on any device.

    world = PictureWorld("cuda")
    scenes = world.draw(64, torch.Generator("cuda").manual_seed(1))
    clips = world.render(scenes, torch.arange(12.0, device="cuda").expand(64, -1))  # [64, 12, 3, 128, 128]
    captions = world.captions(scenes)

Linear motion wraps round at the frame's borders, so it never ends; places stand still. All lengths are in frame sides,
so that a scene can be rendered at any size. Not in the paper.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from .motion import States, states
from .places import PICTURES, pictures_of_each, read_places
from .scenes import SceneDrawing, Scenes, captions
from .things import DRAWN_SIDES, read_things, sharpness_levels

TWO_SHARE = 0.1
"""Share of the clips with two things."""

NO_WEIGHTS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Window:
    """A square part of each frame: `origin` [N, 2] is its upper left corner, `side` its side, in frame sides."""

    origin: Tensor
    side: float


class PictureWorld:
    """Things and places on one device.

    `pictures`: how many pictures there are of each detailed place (a fifth as many of a plain one). Fewer are painted
    faster, and are the first of the full number. `folder`: where painted places are stored; by default the user's
    cache.
    """

    def __init__(
        self, device: torch.device | str = "cpu", pictures: int = PICTURES, folder: Path | None = None
    ) -> None:
        self.device = torch.device(device)
        self.pictures_of, self._folder = pictures_of_each(pictures), folder
        counts = torch.tensor(self.pictures_of)
        self._first_picture = (counts.cumsum(0) - counts).to(self.device)
        # Whether to check which clips have a second thing; on a GPU this would mean waiting.
        self._may_look = self.device.type == "cpu"
        self._levels = torch.tensor(DRAWN_SIDES, device=self.device)
        self._scene_drawings: dict[torch.device, SceneDrawing] = {}
        self._things_at: dict[int, Tensor] = {}
        self._places_at: dict[int, Tensor] = {}

    def draw(
        self,
        count: int,
        generator: torch.Generator,
        held_out: bool = False,
        two_share: float = TWO_SHARE,
        motion_weights: Mapping[str, float] = NO_WEIGHTS,
    ) -> Scenes:
        """`count` scenes on this world's device, drawn by the generator, which may be on another device. `held_out`:
        the first thing and its place are a held-out pair, otherwise never one. `two_share` is the share of clips with
        two things. `motion_weights`: how many times as often as usual a motion is drawn, relative to the others."""
        device = generator.device
        if device not in self._scene_drawings:
            self._scene_drawings[device] = SceneDrawing(self.pictures_of, device)
        return self._scene_drawings[device].draw(count, generator, held_out, two_share, motion_weights).to(self.device)

    def render(self, scenes: Scenes, times: Tensor, size: int = 128, window: Window | None = None) -> Tensor:
        """Images [N, T, 3, S, S] float32 in [0, 1] of frames of `size` pixels at times [N, T] in frames, which may be
        fractions. With a `window`, only that part of each frame: S is its side in whole pixels."""
        return self.layers(scenes, times, size, window)[0]

    def coverage(self, scenes: Scenes, times: Tensor, size: int = 128, window: Window | None = None) -> Tensor:
        """How much of each pixel is covered by things: [N, T, 1, S, S] float32 in [0, 1]."""
        return self.layers(scenes, times, size, window)[1]

    def layers(
        self, scenes: Scenes, times: Tensor, size: int = 128, window: Window | None = None
    ) -> tuple[Tensor, Tensor]:
        """The results of `render` and `coverage`, at the cost of one of them."""
        x, y = self._pixels(len(scenes), size, window)
        ground = self._ground(scenes, size, x, y)
        image = ground[:, None].expand(-1, times.shape[1], -1, -1, -1)
        covered = image.new_zeros(()).expand(*image.shape[:2], 1, *image.shape[3:])
        moved = states(scenes, times)
        if not self._may_look:
            over = self._drawn(scenes, moved, 1, size, x, y)
            image, covered = _laid(over[:, :, :3], over, image), over[:, :, 3:]
        elif scenes.two.any():
            rows = scenes.two.nonzero().flatten()
            over = self._drawn(scenes[rows], States(*(value[rows] for value in moved)), 1, size, x[rows], y[rows])
            image = image.index_copy(0, rows, _laid(over[:, :, :3], over, image[rows]))
            covered = covered.index_copy(0, rows, over[:, :, 3:])
        over = self._drawn(scenes, moved, 0, size, x, y)
        image, covered = _laid(over[:, :, :3], over, image), _laid(over[:, :, 3:], over, covered)
        return image.clamp(0, 1), covered.clamp(0, 1)

    def ground(self, scenes: Scenes, size: int = 128, window: Window | None = None) -> Tensor:
        """Only the places: [N, 3, S, S] float32 in [0, 1], the same in every frame."""
        return self._ground(scenes, size, *self._pixels(len(scenes), size, window))

    def states(self, scenes: Scenes, times: Tensor) -> States:
        """Centre, side and angle of both things at times [N, T]."""
        return states(scenes, times)

    def captions(self, scenes: Scenes) -> list[str]:
        """The caption of each clip, made by rules."""
        return captions(scenes)

    def window_on_things(
        self, scenes: Scenes, times: Tensor, pixels: int, generator: torch.Generator, size: int = 128
    ) -> Window:
        """Windows of `pixels` inside the frame, whose centres are within the bounds of the first thing of each clip at
        times [N]. They begin at whole pixels of a frame of `size`."""
        moved = states(scenes, times[:, None])
        centres = torch.stack((moved.x[:, 0, 0], moved.y[:, 0, 0]), dim=1).remainder(1)
        lots = torch.rand(len(scenes), 2, generator=generator, device=generator.device).to(self.device)
        centres = centres + (lots - 0.5) * scenes.side[:, :1]
        corners = (centres * size - pixels / 2).round().clamp(0, size - pixels)
        return Window(corners / size, pixels / size)

    def _pixels(self, count: int, size: int, window: Window | None) -> tuple[Tensor, Tensor]:
        """x and y of pixel centres, [N, S] each."""
        side = size if window is None else round(window.side * size)
        steps = (torch.arange(side, device=self.device) + 0.5) / size
        if window is None:
            return steps.expand(count, -1), steps.expand(count, -1)
        x, y = (window.origin[:, axis, None] + steps for axis in range(2))
        return x, y

    def _ground(self, scenes: Scenes, size: int, x: Tensor, y: Tensor) -> Tensor:
        zoom, light = scenes.zoom[:, None], scenes.light[:, None, None, None]
        across = ((2 * x - 1) / zoom + scenes.shift[:, :1]) * scenes.flip[:, None]
        down = (2 * y - 1) / zoom + scenes.shift[:, 1:]
        pictures = self._places(size)[self._first_picture[scenes.places] + scenes.picture].float() / 255
        shape = (len(scenes), y.shape[1], x.shape[1])
        grid = torch.stack((across[:, None, :].expand(shape), down[:, :, None].expand(shape)), dim=-1)
        edge = 1 - 1 / pictures.shape[-1]  # not padding_mode="border", which PyTorch's MPS lacks before 2.13
        drawn = F.grid_sample(pictures, grid.clamp(-edge, edge), padding_mode="zeros", align_corners=False)
        return (drawn * light).clamp(0, 1)

    def _drawn(self, scenes: Scenes, moved: States, number: int, size: int, x: Tensor, y: Tensor) -> Tensor:
        """Only thing `number` of each clip: colours times coverage, and coverage [N, T, 4, S, S]."""
        centre_x, centre_y, side, angle = (value[:, :, number, None, None] for value in moved)
        # The shorter way around: at most half a frame.
        dx = (x[:, None, None, :] - centre_x + 0.5).remainder(1) - 0.5
        dy = (y[:, None, :, None] - centre_y + 0.5).remainder(1) - 0.5
        cos, sin, half = angle.cos(), angle.sin(), side / 2
        grid = torch.stack(((cos * dx + sin * dy) / half, (cos * dy - sin * dx) / half), dim=-1)  # [N, T, S, S, 2]
        level = (scenes.side[:, number, None] - self._levels).abs().argmin(dim=1)
        picture = self._things(size)[scenes.things[:, number], level].float()
        if number == 1:
            picture = picture * scenes.two[:, None, None, None]
        drawn = F.grid_sample(picture, grid.flatten(1, 2), padding_mode="zeros", align_corners=False)
        return drawn.unflatten(2, grid.shape[1:3]).transpose(1, 2)

    @cached_property
    def _painted(self) -> Tensor:
        """All pictures of places. They are painted when the first frame is rendered, because words and states do not
        need them."""
        return read_places(self.pictures_of[0], self._folder).to(self.device)

    def _things(self, size: int) -> Tensor:
        """Pictures of things for frames of `size`, made once."""
        if size not in self._things_at:
            self._things_at[size] = sharpness_levels(read_things(), size).to(self.device)
        return self._things_at[size]

    def _places(self, size: int) -> Tensor:
        """Pictures of places for frames of `size`, made once. They are scaled down for smaller frames, never up."""
        if size >= self._painted.shape[-1]:
            return self._painted
        if size not in self._places_at:
            small = F.interpolate(
                self._painted.float(), size=(size, size), mode="bicubic", antialias=True, align_corners=False
            )
            self._places_at[size] = small.round().clamp(0, 255).byte()
        return self._places_at[size]


def _laid(top: Tensor, over: Tensor, below: Tensor) -> Tensor:
    """`top` over `below`, by the coverage in the last channel of `over`."""
    return top + below * (1 - over[:, :, 3:])
