"""The quality table of the world of pictures: does a video show what its prompt says, and does it stay that way?

A video is judged only by its frames, in the same way for a model, for true clips, for a video that repeats its first
frame and for one that blurs. Not in the paper.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..synthetic.pictures.names import DETAILED_PLACES, PLACES, THINGS
from .pictures_judge import Judge, Seen, named, see, short_way
from .pictures_motion import THERE, right_direction, right_speed, told_motions, velocity
from .pictures_prompts import PicturePrompt

WINDOW = 16
"""Frames over which motion is measured."""
AROUND, EDGE = 1.5, 0.03
"""The part of a frame that is not still: a disc with a diameter of 1.5 sides of the thing, plus a border for pixels
that the thing's edge affects, in frame sides."""
INSIDE = 0.8
"""The disc in which the thing's sharpness is measured, in sides of the thing."""
LEAST_STILL = 1 / 20
"""The least share of the frame that must be still for a video to count where the still part is measured."""


@dataclass(frozen=True)
class Watched:
    """Videos [N, T, 3, H, W] in [0, 1], what the judge saw in them, and their prompts."""

    videos: Tensor
    seen: Seen
    prompts: Sequence[PicturePrompt]


def watch(judge: Judge, videos: Tensor, prompts: Sequence[PicturePrompt]) -> Watched:
    """Let the judge look at all frames. Raises ValueError unless each video has a prompt."""
    if len(videos) != len(prompts):
        raise ValueError(f"got {len(videos)} videos and {len(prompts)} prompts; each video needs its prompt")
    return Watched(videos, see(judge, videos), prompts)


def picture_table(watched: Watched) -> dict[str, float | None]:
    """All measures that videos of this length allow, by name. None if no video can be measured."""
    last = watched.videos.shape[1] - 1
    marks = [frame for frame in (0, 15, 63) if frame <= last]
    table: dict[str, float | None] = {}
    for frame in marks:
        table[f"thing recognised at frame {frame}"] = share(right_things(watched, frame))
    for frame in marks:
        table[f"place recognised at frame {frame}"] = share(right_places(watched, frame))
    for frame in marks[1:]:
        table[f"thing there at frame {frame}"] = share(watched.seen.there[:, frame] > THERE)
    table |= motion_table(watched, 0, "frames 0-15")
    for frame in marks[2:] or marks[-1:]:
        if frame:
            table |= {f"{name} at frame {frame}": value for name, value in held(watched, frame).items()}
    if last >= 63:
        table |= motion_table(watched, 48, "frames 48-63")
    return table


def motion_table(watched: Watched, start: int, name: str) -> dict[str, float | None]:
    """Shares of right directions and speeds among linear motions, and of other motions that are recognised, over the 16
    frames from `start`."""
    end = start + WINDOW
    linear = torch.tensor([prompt.linear for prompt in watched.prompts])
    motions = [prompt.motion for prompt in watched.prompts]
    along = [motion for motion, is_linear in zip(motions, linear.tolist(), strict=True) if is_linear]
    found = velocity(watched.seen, start, end)[linear]
    told = torch.tensor([a == b for a, b in zip(told_motions(watched.seen, start, end), motions, strict=True)])
    return {
        f"direction within 30 degrees, {name}": share(right_direction(found, along)),
        f"speed within 30%, {name}": share(right_speed(found, along)),
        f"other motions recognised, {name}": share(told[~linear]),
    }


def held(watched: Watched, frame: int) -> dict[str, float | None]:
    """What is left at `frame`: see `background_drift`, `texture_kept`, `sharpness_kept`."""
    return {
        "background drift": background_drift(watched, frame),
        "background drift where the thing never was": background_drift(watched, frame, passed=False),
        "background drift where it was": background_drift(watched, frame, passed=True),
        "texture kept": texture_kept(watched, frame),
        "sharpness of the thing over frame 1": sharpness_kept(watched, frame),
    }


def right_things(watched: Watched, frame: int) -> Tensor:
    """Whether the thing is there and is the prompt's: bool [N]."""
    told = torch.tensor([THINGS.index(prompt.thing) for prompt in watched.prompts])
    return (watched.seen.things[:, frame].argmax(1) == told) & (watched.seen.there[:, frame] > THERE)


def right_places(watched: Watched, frame: int) -> Tensor:
    """Whether the place is the prompt's: bool [N]."""
    told = torch.tensor([PLACES.index(prompt.place) for prompt in watched.prompts])
    return watched.seen.places[:, frame].argmax(1) == told


def confusions(watched: Watched, frame: int) -> dict[str, int]:
    """Things that were taken for others, or not seen, most frequent first: "prompted -> seen", and how often."""
    seen = named(watched.seen.things[:, frame], THINGS)
    there = (watched.seen.there[:, frame] > THERE).tolist()
    pairs = [
        (prompt.thing, name if is_there else "nothing")
        for prompt, name, is_there in zip(watched.prompts, seen, there, strict=True)
    ]
    return dict(Counter(f"{told} -> {name}" for told, name in pairs if told != name).most_common())


def place_confusions(watched: Watched, frame: int) -> dict[str, int]:
    """The same for places."""
    pairs = zip((prompt.place for prompt in watched.prompts), named(watched.seen.places[:, frame], PLACES), strict=True)
    return dict(Counter(f"{told} -> {name}" for told, name in pairs if told != name).most_common())


def motion_confusions(watched: Watched, start: int) -> dict[str, int]:
    """The same for motions, including linear ones, over the 16 frames from `start`."""
    told = told_motions(watched.seen, start, start + WINDOW)
    pairs = zip((prompt.motion for prompt in watched.prompts), told, strict=True)
    return dict(Counter(f"{asked} -> {name}" for asked, name in pairs if asked != name).most_common())


def background_drift(watched: Watched, frame: int, passed: bool | None = None) -> float | None:
    """Mean absolute difference (of 255) of the still part between `frame` and frame 0, averaged over videos. `passed`:
    true: only the part where the thing was in some frame up to `frame`; false: only the part where it never was."""
    still = _still(watched, frame)
    if passed is not None:
        never = torch.stack([_away(watched, index) for index in range(frame + 1)]).amin(dim=0)
        still = still * (1 - never if passed else never)
    change = (watched.videos[:, frame] - watched.videos[:, 0]).abs().mean(dim=1, keepdim=True)
    return _mean(255 * (change * still).sum(dim=(1, 2, 3)) / still.sum(dim=(1, 2, 3)), _enough(still))


def texture_kept(watched: Watched, frame: int) -> float | None:
    """How much of frame 0's energy of fine detail is left in the still part at `frame`: at most 1 in each of two
    octaves of the spectrum (finer than about 3 pixels of 128, and than about 7), averaged over octaves and videos. Only
    detailed places count, because plain colours have no detail."""
    still = _still(watched, frame)
    left, first = (fine_detail(watched.videos[:, index], still) for index in (frame, 0))
    kept = (left / first.clamp(min=1e-9)).clamp(max=1.0)
    detailed = torch.tensor([prompt.place in DETAILED_PLACES for prompt in watched.prompts])
    return _mean(kept.mean(dim=1), _enough(still) & detailed)


def fine_detail(images: Tensor, where: Tensor) -> Tensor:
    """Mean square of two octaves of images [N, 3, H, W], the finest first, over the pixels of `where` [N, 1, H, W]: [N,
    2]."""
    pixel = images.shape[-1] / 128
    first, second = (_blurred(images, max(1, round(reach * pixel))) for reach in (1, 3))
    bands = [(images - first) * where, (first - second) * where]
    return torch.stack([band.square().sum(dim=(1, 2, 3)) for band in bands], dim=1) / where.sum(dim=(2, 3)) / 3


def detail_of_places(watched: Watched, true: Watched) -> float | None:
    """Energy of fine detail in the still part of frame 0, divided by that of the true clips of the same prompts. Mean
    over the two octaves; median over detailed places, because no two pictures of a place have the same energy."""
    found, wanted = (fine_detail(each.videos[:, 0], _still(each, 0)) for each in (watched, true))
    detailed = torch.tensor([prompt.place in DETAILED_PLACES for prompt in watched.prompts])
    ratios = (found / wanted).mean(dim=1)[detailed]
    return ratios.median().item() if len(ratios) else None


def sharpness_kept(watched: Watched, frame: int) -> float | None:
    """The thing's sharpness at `frame` divided by that at frame 1, 0 if it is not there; median over videos."""
    sharp = [_sharpness(watched, index) for index in (1, frame)]
    there = (watched.seen.there[:, [1, frame]] > THERE).all(dim=1)
    return torch.where(there, sharp[1] / sharp[0].clamp(min=1e-6), 0.0).median().item()


def _sharpness(watched: Watched, frame: int) -> Tensor:
    """Mean absolute difference between neighbouring pixels of the thing: [N]."""
    images = watched.videos[:, frame]
    inside = _disc(watched.seen, frame, INSIDE / 2, 0.0, images.shape[-2:])
    change = [(images - images.roll(1, dims=axis)).abs().mean(dim=1, keepdim=True) for axis in (-1, -2)]
    return ((change[0] + change[1]) * inside).sum(dim=(1, 2, 3)) / inside.sum(dim=(1, 2, 3)).clamp(min=1)


def _still(watched: Watched, frame: int) -> Tensor:
    """1 where the judge sees no thing in frame 0 or in `frame`, else 0: [N, 1, H, W]."""
    return _away(watched, 0) * _away(watched, frame)


def _away(watched: Watched, frame: int) -> Tensor:
    """1 where the judge sees no thing in `frame`, else 0: [N, 1, H, W]."""
    near = _disc(watched.seen, frame, AROUND / 2, EDGE, watched.videos.shape[-2:])
    return torch.where((watched.seen.there[:, frame] > THERE)[:, None, None, None], 1 - near, 1.0)


def _disc(seen: Seen, frame: int, sides: float, more: float, shape: Sequence[int]) -> Tensor:
    """1 in a disc around the thing, wrapped around the borders, with a radius of `sides` of its sides plus `more`; else
    0: [N, 1, H, W]."""
    y, x = ((torch.arange(count) + 0.5) / count for count in shape)
    dx = short_way(x - seen.position[:, frame, :1])[:, None, :]
    dy = short_way(y - seen.position[:, frame, 1:])[:, :, None]
    radius = seen.size[:, frame, None, None] * sides + more
    return (dx.square() + dy.square() <= radius.square()).float()[:, None]


def _enough(still: Tensor) -> Tensor:
    return still.mean(dim=(1, 2, 3)) >= LEAST_STILL


def _blurred(images: Tensor, reach: int) -> Tensor:
    return F.avg_pool2d(images, 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)


def _mean(values: Tensor, counted: Tensor) -> float | None:
    return values[counted].mean().item() if counted.any() else None


def share(right: Tensor) -> float | None:
    """The share of true values in bool [N]; None if N is 0."""
    return right.float().mean().item() if len(right) else None
