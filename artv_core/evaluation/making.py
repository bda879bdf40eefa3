"""Makes the videos to be judged: one file for each prompt, with its text beside it. Existing videos are not made
again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..files.changes import changes
from ..files.file_hash import file_hash
from ..files.partial_file import replacing
from ..media import VideoWriter
from ..method.options import GenerateOptions
from ..models.prompt_weights import escape_parentheses
from ..run.pipeline import Pipeline
from .first_frames import read_first_frame
from .prompt_sets import Prompt

MADE_WITH = "made-with.json"


def check_folder(folder: Path, made_with: Mapping[str, object], videos: Mapping[str, Mapping[str, str]]) -> None:
    """Note in `folder` which settings its videos are made with, and what each video is made from (`described`). Raises
    ValueError if it contains videos that were made with other settings, because all would be judged together, or if one
    of these videos was made from something else."""
    place = folder / MADE_WITH
    now = json.loads(json.dumps(made_with))
    noted: dict[str, Any] = {}
    if place.is_file():
        noted = _noted(place)
        then = {name: value for name, value in noted.items() if name != "videos"}
        before = noted["videos"]
        found = changes(then, now)
        found += [
            f"the text or first frame of {name}" for name in videos if before.get(name, videos[name]) != videos[name]
        ]
        if found:
            raise ValueError(
                f"{folder} contains videos made with other settings ({'; '.join(found)[:400]}); give another folder"
            )
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(place) as path:
        text = json.dumps({**now, "videos": {**noted.get("videos", {}), **videos}}, indent=1, sort_keys=True)
        path.write_text(text, encoding="utf-8")


def described(prompts: Sequence[Prompt], first_frames: Sequence[Path] | None = None) -> dict[str, dict[str, str]]:
    """What each video is made from, by its name: its text, and a hash of the file of its first frame, if that is
    given. Raises ValueError if a file cannot be read."""
    if first_frames is None:
        return {name: {"text": text} for name, text in prompts}
    hashes = {path: file_hash(path) for path in set(first_frames)}
    return {
        name: {"text": text, "first frame": hashes[path]}
        for (name, text), path in zip(prompts, first_frames, strict=True)
    }


def _noted(place: Path) -> dict[str, Any]:
    """What `check_folder` noted. Raises ValueError if that was an earlier release."""
    try:
        noted = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        noted = None
    if not isinstance(noted, dict) or not isinstance(noted.get("videos"), dict):
        raise ValueError(
            f"{place} does not say which checkpoint file, texts and first frames the videos beside it were made from, "
            "as in earlier releases; give another folder, or remove that file if all of them are the same as now"
        )
    return noted


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
