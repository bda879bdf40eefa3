"""Measures videos of the detailed world that continue true frames: is the scenery unchanged, and does the object still
move?

The scene without the object is known (`shapes.ground`), so a video is compared with it. Not in the paper.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .quality import Rollout, direction, linear_clip, sharpness, speed, survival
from .reading import FrameReading, read_object
from .shapes import COLORS, GRAIN_PERIOD, Clip, add_scenery, ground, held_out_combinations, render

WINDOW = 27
"""In frames: about two rounds at the lower speed, so that small and medium objects cover hardly any pixel half of the
time."""
NEAR = 1 / 8
"""In short sides: one cell of latents at 64x64."""
EDGE = 1 / 32
"""In short sides: how far from an edge its effect on pixels is assumed to reach."""
LEAST_GROUND = 1 / 20
"""The least share of the frame that must count for a video to count, where only a part of its ground is looked at."""


def detailed_clips(count: int = 32) -> list[Clip]:
    """Clips with linear motions of the held-out triples, with scenery; every 32 of them have each combination of
    direction, speed and size. There are no large objects, because they cover places for more than half of the time, and
    `ground_drift` takes medians."""
    triples = sorted(held_out_combinations())
    clips = []
    for index in range(count):
        triple = triples[index * 27 % len(triples)]  # so that the first few clips do not all have the first colours
        clip = linear_clip(index, triple, ("small", "medium")[(index + index // 16) % 2])
        clips.append(add_scenery(clip, random.Random(f"detailed/{index}")))
    return clips


def ground_drift(videos: Tensor, clips: Sequence[Clip], frame: int, window: int = WINDOW) -> float:
    """Mean absolute difference (of 255) between the ground at `frame` of the videos [N, T, 3, H, W] and the true one.

    The ground is each pixel's median over the `window` frames that end at `frame`. Raises ValueError if there are not
    that many frames.
    """
    return 255 * (_seen_ground(videos, clips, frame, window) - _true_ground(videos, clips)).abs().mean().item()


def texture_kept(
    videos: Tensor, clips: Sequence[Clip], frame: int, window: int = WINDOW, where: Tensor | None = None
) -> float:
    """How much of the ground's fine texture is left at `frame`: 1 unchanged, 0 gone or replaced by another; mean over
    videos.

    Everything finer than 19/64 of the short side is projected onto the true texture. Bystanders and two pixels of 64
    around them are left out, because their edges can outlast the texture. With `where` [N, 1, H, W] only pixels that
    are 1 count, and only videos in which these are at least a twentieth of the frame; NaN if there are none. Raises
    ValueError as `ground_drift`.
    """
    away = _away_from_bystanders(clips, *videos.shape[-2:])
    true = _texture(_true_ground(videos, clips), away)
    seen = _texture(_seen_ground(videos, clips, frame, window), away)
    counted = away if where is None else away * where
    kept = (seen * true * counted).sum(dim=(1, 2, 3)) / (true.square() * counted).sum(dim=(1, 2, 3))
    return kept[counted.mean(dim=(1, 2, 3)) >= (0 if where is None else LEAST_GROUND)].mean().item()


def never_near(clips: Sequence[Clip], frames: int, height: int, width: int) -> Tensor:
    """1 where the object does not come closer than a cell in the true frames 0..frames-1, else 0: [N, 1, H, W]."""
    bare = [replace(clip, bystanders=(), grain=0.0) for clip in clips]
    scenes = ground(bare, height, width)[:, None]
    covered = (render(bare, frames, height, width) != scenes).any(dim=2).any(dim=1, keepdim=True).float()
    reach = round(NEAR * min(height, width))
    around = F.pad(covered, (reach,) * 4, mode="circular")
    return 1 - F.max_pool2d(around, 2 * reach + 1, stride=1)


def copied(masks: Sequence[Tensor], clips: Sequence[Clip], frames: int) -> float:
    """Mean of masks [N, 1, h, w] (one for each frame) over the cells that the object never comes near; NaN if there are
    none."""
    if not masks:
        return math.nan
    height, width = masks[0].shape[-2:]
    cells = F.adaptive_avg_pool2d(never_near(clips, frames, 64, 64), (height, width)) == 1
    return sum(float(mask[cells].mean()) for mask in masks) / len(masks)


def scene_kept(videos: Tensor, clips: Sequence[Clip]) -> dict[str, float]:
    """All measures at the last frame of videos [N, T, 3, H, W]. Raises ValueError as `ground_drift`."""
    last, start = videos.shape[1] - 1, videos.shape[1] - 16
    never = never_near(clips, last + 1, *videos.shape[-2:])
    return {
        f"ground drift at frame {last}": ground_drift(videos, clips, last),
        f"texture kept at frame {last}": texture_kept(videos, clips, last),
        "texture kept where the object never was near": texture_kept(videos, clips, last, where=never),
        "texture kept where it was": texture_kept(videos, clips, last, where=1 - never),
        f"object there at frame {last}": object_there(videos, clips, last),
        f"direction at frames {start}-{last}": object_direction(videos, clips, start, last + 1),
        f"speed at frames {start}-{last}": object_speed(videos, clips, start, last + 1),
    }


def object_readings(videos: Tensor, clips: Sequence[Clip]) -> Rollout:
    """The moving object in every frame: its area, its colour, its position. Raises ValueError unless each video has a
    clip.

    Its pixels are those that differ from the true ground and are closer to its colour than to any other in the scene.
    """
    readings = [
        _read_object(video, scene, clip)
        for video, scene, clip in zip(videos, _true_ground(videos, clips), clips, strict=True)
    ]
    height, width = videos.shape[-2:]
    return Rollout(readings, torch.stack([sharpness(video) for video in videos]), (height, width))


def object_there(videos: Tensor, clips: Sequence[Clip], frame: int) -> float:
    """Share of videos in which the object is there, in its colour, at `frame`."""
    return survival(object_readings(videos[:, frame, None], clips), clips, 0)


def object_direction(videos: Tensor, clips: Sequence[Clip], start: int, end: int) -> float:
    """Share of videos whose object moves within 30 degrees of the clip's direction over the frames start..end-1."""
    return direction(object_readings(videos[:, start:end], clips), clips, 0, end - start)


def object_speed(videos: Tensor, clips: Sequence[Clip], start: int, end: int) -> float:
    """Share of videos whose object's speed is within 50% of the clip's over the frames start..end-1."""
    return speed(object_readings(videos[:, start:end], clips), clips, 0, end - start)


def _true_ground(videos: Tensor, clips: Sequence[Clip]) -> Tensor:
    if len(videos) != len(clips):
        raise ValueError(f"got {len(videos)} videos and {len(clips)} clips; each video needs its clip")
    return ground(clips, *videos.shape[-2:])


def _seen_ground(videos: Tensor, clips: Sequence[Clip], frame: int, window: int) -> Tensor:
    if not 1 <= window <= frame + 1 <= videos.shape[1]:
        raise ValueError(
            f"got frame {frame} and a window of {window}; the window, of which that frame is the last, must have at "
            f"least one frame and be inside the video, frames 0 to {videos.shape[1] - 1}"
        )
    return videos[:, frame - window + 1 : frame + 1].float().clamp(0, 1).median(dim=1).values


def _away_from_bystanders(clips: Sequence[Clip], height: int, width: int) -> Tensor:
    """0 on bystanders and close to them, else 1: [N, 1, H, W]."""
    bare = ground([replace(clip, bystanders=()) for clip in clips], height, width)
    differs = (ground(clips, height, width) != bare).any(dim=1, keepdim=True).float()
    reach = int(EDGE * min(height, width))
    return 1 - F.max_pool2d(differs, 2 * reach + 1, stride=1, padding=reach)


def _texture(images: Tensor, away: Tensor) -> Tensor:
    """The part of images [N, 3, H, W] that is finer than the coarsest texture, where `away` [N, 1, H, W] is 1; 0
    elsewhere."""
    reach = round(max(GRAIN_PERIOD) * min(images.shape[-2:]) / 2)
    mean = _blurred(images * away, reach) / _blurred(away, reach).clamp(min=1e-6)
    return (images - mean) * away


def _blurred(images: Tensor, reach: int) -> Tensor:
    """Means over squares of 2 * reach + 1 pixels. At the borders only pixels inside the frame count."""
    return F.avg_pool2d(images, 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)


def _read_object(video: Tensor, scene: Tensor, clip: Clip) -> list[FrameReading]:
    """`video` [T, 3, H, W], `scene` [3, H, W]."""
    video = video.float().clamp(0, 1)
    others = {clip.background, *(bystander.color for bystander in clip.bystanders)}
    nearest_other = torch.stack([_squares(video, color) for color in others]).amin(dim=0)
    # Blurred, so that a lost or changed texture weighs less than the object.
    distance = _blurred(video - scene, reach=int(EDGE * min(scene.shape[-2:]))).square().sum(dim=1).sqrt()
    distance = distance * (_squares(video, clip.color) < nearest_other)
    background = scene.flatten(1).median(dim=1).values
    return [read_object(image, background, far) for image, far in zip(video, distance, strict=True)]


def _squares(video: Tensor, color: str) -> Tensor:
    """Squared distance of each pixel from a colour: [T, H, W]. Written out, because torch's norms over channels are
    slow."""
    return (video - torch.tensor(COLORS[color])[:, None, None]).square().sum(dim=1)
