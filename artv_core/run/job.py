"""A job: the inputs and output files of one run of the sampler."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..files.partial_file import one_line
from ..files.terminal import version

if TYPE_CHECKING:
    from torch import Tensor

    from ..method.options import GenerateOptions


@dataclass(frozen=True)
class Job:
    """What to make and where to write it. `options` are resolved. `videos` has one path for each video of the batch,
    and so have `masks` and `drift` if they are not empty. `given` [T, B, C, h, w] are latents of frames to continue
    from. `keyframes` are images with the frames that they are. `anchor_images` has one image for all prompts, or one
    for each prompt.

    `journal` is a folder that keeps every frame. If an earlier run of the same job was interrupted, its frames are
    taken from there, unless `start_over`. With `stream`, the videos can be watched while they are written.
    """

    prompts: Sequence[tuple[int, str]]
    options: GenerateOptions
    videos: Sequence[Path]
    fps: float
    masks: Sequence[Path] = ()
    latents: Path | None = None
    upscale: int = 1
    image: Path | None = None
    given: Tensor | None = None
    negative: str | None = None
    anchor: str = "segment"
    anchor_images: Sequence[Path] = ()
    keyframes: Sequence[tuple[int, Path]] = ()
    checkpoint: str = ""
    journal: Path | None = None
    start_over: bool = False
    stream: bool = False
    drift: Sequence[Path] = ()

    @property
    def images(self) -> list[Path]:
        """All images that the job reads."""
        first = [] if self.image is None else [self.image]
        return [*first, *self.anchor_images, *(image for _, image in self.keyframes)]

    @property
    def num_given(self) -> int:
        """Number of frames that are given, so they are not generated."""
        return 1 if self.image is not None else 0 if self.given is None else len(self.given)

    def settings(self) -> str:
        """The settings that decide a frame, other than prompt, seed and earlier frames, as JSON. A continued run should
        have the same."""
        elsewhere = ("num_frames", "seed", "batch_size", "height", "width")
        settings = {name: value for name, value in dataclasses.asdict(self.options).items() if name not in elsewhere}
        named = {"checkpoint": self.checkpoint, "anchor": self.anchor, "negative": self.negative}
        return json.dumps({**named, **settings}, sort_keys=True)

    def comment(self, video: int) -> str:
        """The comment for a video's file: prompts, seed and settings as JSON."""
        settings = dataclasses.asdict(self.options)
        settings["seed"] += video
        settings["redo"] = [[frame, seed + video] for frame, seed in self.options.redo]
        del settings["batch_size"]
        anchors = [image.name for image in self.anchor_images]
        inputs = {
            "image": self.image and self.image.name,
            "negative": self.negative,
            "anchor_image": anchors[0] if len(anchors) == 1 else anchors or None,
            "keyframes": [[frame, image.name] for frame, image in self.keyframes] or None,
        }
        named = {name: value for name, value in inputs.items() if value is not None}
        made_by = {"artv": version(), "checkpoint": self.checkpoint, "anchor": self.anchor}
        return json.dumps({**made_by, "prompts": [list(prompt) for prompt in self.prompts], **named, **settings})


def check_images(job: Job) -> None:
    """Raises ValueError if an image of the job cannot be read. Call it before slow work."""
    for image in job.images:
        read_job_image(image, job)


def read_job_image(path: Path, job: Job) -> Tensor:
    """An image at the size of the job's video, [1, 3, H, W] in [0, 1]. Raises ValueError if it cannot be read."""
    from ..media import read_image

    return read_image(path, job.options.height or 0, job.options.width or 0)


def changed_settings(job: Job, made_with: str) -> list[str]:
    """Settings in which the job differs from the frames that it continues, as "name: then -> now". `made_with` are
    their settings, as `Job.settings` gives them."""
    try:
        then = json.loads(made_with or "{}")
    except (ValueError, RecursionError):  # from a file, which is not trusted
        return []
    now = json.loads(job.settings())
    known = [name for name in now if isinstance(then, dict) and name in then]
    return [f"{name}: {one_line(str(then[name]), 100)} -> {now[name]}" for name in known if then[name] != now[name]]
