"""Sets of prompts for videos that are to be judged: a name and a text for each.

Published evaluations of text-to-video use two sets. UCF-101: a caption for each of its 101 classes, with videos spread
evenly over the classes. MSR-VTT: one of the twenty captions of each of its 2,990 test videos. The captions of the
UCF-101 classes were written for this project, because the paper does not print its own.
"""

from __future__ import annotations

import csv
import json
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..method.randomness import seeded_generator

UCF101 = "ucf101"
MSRVTT = "msrvtt"


class Prompt(NamedTuple):
    """`name` is the video's name without an ending."""

    name: str
    text: str


def read_prompts(what: str, count: int | None = None, seed: int = 0) -> list[Prompt]:
    """`what` is "ucf101"; "msrvtt:FILE", the published annotations (JSON); or a text file with one prompt on each line.

    Without `count` each prompt is used once. A larger `count` starts again from the first, a smaller one takes the
    first ones (`seed` draws the order and captions of MSR-VTT). Raises ValueError if there is no such set or file, or
    it cannot be read.
    """
    if what == UCF101:
        prompts = ucf101_prompts()
    elif what.startswith(f"{MSRVTT}:"):
        prompts = msrvtt_prompts(Path(what.removeprefix(f"{MSRVTT}:")), seed)
    else:
        prompts = _lines(Path(what))
    count = len(prompts) if count is None else count
    if count < 1:
        raise ValueError(f"the number of videos is {count}; give 1 or more")
    rounds = range(-(-count // len(prompts)))
    several = len(rounds) > 1
    return [Prompt(f"{name}-{one}" if several else name, text) for one in rounds for name, text in prompts][:count]


def ucf101_prompts() -> list[Prompt]:
    """The 101 classes, by name."""
    text = resources.files(__package__).joinpath("ucf101.csv").read_text(encoding="utf-8")
    return [Prompt(row["class"], row["caption"]) for row in csv.DictReader(text.splitlines())]


def msrvtt_prompts(annotations: Path, seed: int) -> list[Prompt]:
    """One caption for each test video; `seed` draws both the captions and the order. Raises ValueError if the file is
    not MSR-VTT's."""
    data = _read_json(annotations)
    videos, sentences = data.get("videos"), data.get("sentences")
    if not isinstance(videos, list) or not isinstance(sentences, list):
        raise ValueError(f"{annotations} contains no annotations of MSR-VTT: lists 'videos' and 'sentences' are needed")
    test = {_field(video, "video_id", annotations) for video in videos if _field(video, "split", annotations) == "test"}
    captions: dict[str, list[str]] = {}
    for sentence in sentences:
        video = _field(sentence, "video_id", annotations)
        if video in test:
            captions.setdefault(video, []).append(_field(sentence, "caption", annotations))
    if not captions:
        raise ValueError(f"{annotations} contains no captions of videos whose 'split' is 'test'")
    names = sorted(captions)
    order = torch.randperm(len(names), generator=seeded_generator(seed, MSRVTT)).tolist()
    return [Prompt(names[place], _one_of(sorted(captions[names[place]]), seed, names[place])) for place in order]


def _one_of(texts: list[str], seed: int, name: str) -> str:
    return texts[int(torch.randint(len(texts), (), generator=seeded_generator(seed, MSRVTT, name)))]


def _lines(path: Path) -> list[Prompt]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        accepted = f"{UCF101}, {MSRVTT}:FILE.json, or a text file with one prompt on each line"
        raise ValueError(f"cannot read prompts from {path} ({_reason(error)}); accepted are {accepted}") from None
    texts = [line for line in lines if line and not line.startswith("#")]
    if not texts:
        raise ValueError(f"{path} contains no prompt; give one on each line")
    return [Prompt(f"{number:05d}", text) for number, text in enumerate(texts)]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot read the annotations {path}: {_reason(error)}") from None
    return data if isinstance(data, dict) else {}


def _field(record: Any, name: str, path: Path) -> str:
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, str):
        raise ValueError(f"{path} contains no annotations of MSR-VTT: a record lacks a text {name!r}")
    return value


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).splitlines()[0].lower()
