"""A job: what one run of the sampler makes, and the files it writes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..files.terminal import version

if TYPE_CHECKING:
    from torch import Tensor

    from ..method.generate import GenerateOptions


@dataclass(frozen=True)
class Job:
    """What to make and where to put it. `options` are resolved; `videos`, and `masks` and `drift` if they are wanted,
    have one path for each video of the batch; `given` [T, B, C, h, w] are frames to go on from.

    `journal` is a folder: every frame is kept there, and those of an earlier run of the same job, if it was cut off,
    are taken from there unless `start_over`. With `stream` the videos can be watched while they grow.
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
    anchor_image: Path | None = None
    checkpoint: str = ""
    journal: Path | None = None
    start_over: bool = False
    stream: bool = False
    drift: Sequence[Path] = ()

    @property
    def num_given(self) -> int:
        """Frames that need not be made."""
        return 1 if self.image is not None else 0 if self.given is None else len(self.given)

    def settings(self) -> str:
        """What decides a frame beside its prompt, seed and predecessors, as JSON: to be kept when going on."""
        elsewhere = ("num_frames", "seed", "batch_size", "height", "width")
        settings = {name: value for name, value in dataclasses.asdict(self.options).items() if name not in elsewhere}
        named = {"checkpoint": self.checkpoint, "anchor": self.anchor, "negative": self.negative}
        return json.dumps({**named, **settings}, sort_keys=True)

    def comment(self, video: int) -> str:
        """What is stored in a video's file: prompts, seed and settings, as JSON."""
        settings = dataclasses.asdict(self.options)
        settings["seed"] += video
        del settings["batch_size"]
        inputs = {"image": self.image, "negative": self.negative, "anchor_image": self.anchor_image}
        named = {name: getattr(value, "name", value) for name, value in inputs.items() if value is not None}
        made_by = {"artv": version(), "checkpoint": self.checkpoint, "anchor": self.anchor}
        return json.dumps({**made_by, "prompts": [list(prompt) for prompt in self.prompts], **named, **settings})


def check_images(job: Job) -> None:
    """Raises ValueError, before any time is spent, where an image of the job cannot be read."""
    for image in (job.image, job.anchor_image):
        if image is not None:
            read_job_image(image, job)


def read_job_image(path: Path, job: Job) -> Tensor:
    """An image at the size of the job's video. Raises ValueError where it cannot be read."""
    from ..media import read_image

    return read_image(path, job.options.height or 0, job.options.width or 0)


def changed_settings(job: Job, made_with: str) -> list[str]:
    """Settings in which the job differs from the frames that it goes on from, as "name: then -> now"."""
    try:
        then = json.loads(made_with or "{}")
    except (ValueError, RecursionError):  # from a file, which anyone may have written
        return []
    now = json.loads(job.settings())
    known = [name for name in now if isinstance(then, dict) and name in then]
    return [f"{name}: {str(then[name])[:100]} -> {now[name]}" for name in known if then[name] != now[name]]
