"""Makes the videos to be judged: one file for each prompt, with its text beside it. Existing videos are not made
again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..files.partial_file import replacing
from ..media import VideoWriter
from ..method.options import GenerateOptions
from ..models.prompt_weights import escape_parentheses
from ..run.pipeline import Pipeline
from .first_frames import read_first_frame
from .prompt_sets import Prompt

MADE_WITH = "made-with.json"


def check_folder(folder: Path, made_with: dict[str, object]) -> None:
    """Note in `folder` which settings its videos are made with. Raises ValueError if it contains videos made with other
    settings, because all would be judged together."""
    place = folder / MADE_WITH
    now = json.dumps(made_with, indent=1, sort_keys=True)
    if place.is_file():
        then = place.read_text(encoding="utf-8")
        if then != now:
            raise ValueError(
                f"{folder} contains videos made with other settings ({place} says which); give another folder"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(place) as path:
        path.write_text(now, encoding="utf-8")


def make_videos(
    pipeline: Pipeline,
    prompts: Sequence[Prompt],
    options: GenerateOptions,
    folder: Path,
    share: tuple[int, int] = (0, 1),
    on_done: Callable[[], None] = lambda: None,
    first_frames: Sequence[Path] | None = None,
) -> None:
    """Make the videos that are missing. Prompt number n has the seed `options.seed` + n, and with `first_frames` its
    video begins with the image (or the video's first frame) in file number n. With `share` (process, processes) each
    process makes its part of them."""
    for number in range(share[0], len(prompts), share[1]):
        name, text = prompts[number]
        video = folder / f"{name}.mp4"
        if not video.is_file():
            with replacing(video.with_suffix(".txt")) as path:
                path.write_text(f"{text}\n", encoding="utf-8")
            first = None if first_frames is None else first_frames[number]
            _make(pipeline, text, replace(options, seed=options.seed + number), video, first)
        on_done()


def _make(pipeline: Pipeline, text: str, options: GenerateOptions, path: Path, first: Path | None) -> None:
    image = None if first is None else read_first_frame(first, options.height or 0, options.width or 0)
    comment = json.dumps({"prompt": text, "seed": options.seed})
    with VideoWriter(path, pipeline.model.config.fps, comment=comment) as writer:
        for frame in pipeline.frames(escape_parentheses(text), options, image=image):
            writer.append(frame.image[0])
