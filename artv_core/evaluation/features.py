"""Features of many videos, computed once and kept in a file for each video, so that a stopped run can continue and
several processes can share the work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data.clips import BrokenClip
from ..data.decode import probe, read_frames
from ..data.sources import Entry, is_video, list_entries, size_and_time
from ..files.tensor_file import open_tensor_file, write_tensor_file
from ..run.drift import DriftMeter
from .networks import FeatureNetwork

BROKEN = "broken"
READINGS = ("shift", "spread", "sharpness", "motion", "distance")
"""The fields of `drift.DriftReading`, in the order of the columns of `Everyday`."""


@dataclass(frozen=True)
class Reading:
    """How a video is read: `frames` frames, `fps` per second from its start, scaled until they cover `size` (height,
    width), and cropped around the centre."""

    frames: int
    fps: float
    size: tuple[int, int]


class Everyday:
    """Measurements that need no weights: the drift of each frame from the first one."""

    identity = "everyday-1"

    def __call__(self, frames: Tensor, caption: str) -> dict[str, Tensor]:
        """`drift` [T, 5], as `READINGS` names the columns."""
        meter = DriftMeter()
        readings = [meter.read(index, frame) for index, frame in enumerate(frames)]
        return {"drift": torch.tensor([[getattr(reading, name) for name in READINGS] for reading in readings])}


def videos_of(source: str | Path) -> tuple[list[Entry], list[str]]:
    """The videos of a folder, with the text beside each (`a.mp4`, `a.txt`) if there is one; for a list or shards, as
    `list_entries`, with or without captions. Also a line for each thing that cannot be used. Raises ValueError if there
    is no video."""
    folder = Path(source)
    if not folder.is_dir():
        return list_entries(source, captioned=False)
    found = [path for path in sorted(folder.rglob("*")) if is_video(path.name) and not path.name.startswith(".")]
    if not found:
        raise ValueError(f"no videos found in {folder}; give a folder with video files")
    return [Entry(path, None, _text_beside(path), label=path.relative_to(folder).as_posix()) for path in found], []


def keep_features(
    entries: Sequence[Entry],
    networks: Mapping[str, FeatureNetwork],
    reading: Reading,
    folder: Path,
    share: tuple[int, int] = (0, 1),
    on_done: Callable[[], None] = lambda: None,
) -> None:
    """Compute the features that are not in `folder` yet. With `share` (process, processes) each process takes its part
    of the videos.

    For a video that cannot be read or is too short, the reason is kept instead, and if that may pass, only until the
    next time.
    """
    for entry in entries[share[0] :: share[1]]:
        places = {name: _place(folder, entry, network, reading) for name, network in networks.items()}
        missing = [name for name, place in places.items() if not place.is_file()]
        if missing:
            found = _looked_at(entry, {name: networks[name] for name in missing}, reading)
            for name in missing:
                _keep(places[name], found if isinstance(found, BrokenClip) else found[name])
        on_done()


def kept_features(
    entries: Sequence[Entry], network: FeatureNetwork, reading: Reading, folder: Path
) -> tuple[dict[str, list[Tensor]], list[Entry], list[str]]:
    """The features that `keep_features` kept: by name, one tensor [n, D] for each video that could be read; those
    videos; and a line for each of the others."""
    features: dict[str, list[Tensor]] = {}
    read: list[Entry] = []
    broken: list[str] = []
    for entry in entries:
        place = _place(folder, entry, network, reading)
        file = open_tensor_file(place if place.is_file() else _this_time(place))
        if BROKEN in file.metadata:
            broken.append(file.metadata[BROKEN])
            continue
        read.append(entry)
        for name, tensor in file.read(file.tensors):
            features.setdefault(name, []).append(tensor.clone())
    return features, read, broken


def common_size(entries: Sequence[Entry]) -> tuple[int, int]:
    """(height, width) of the first video that can be read. Raises ValueError if none can."""
    fault = "there are no videos"
    for entry in entries:
        try:
            facts = probe(entry)
        except BrokenClip as error:
            fault = str(error)
            continue
        return facts.height, facts.width
    raise ValueError(f"no video can be read: {fault}")


def _looked_at(
    entry: Entry, networks: Mapping[str, FeatureNetwork], reading: Reading
) -> dict[str, dict[str, Tensor]] | BrokenClip:
    try:
        frames = read_frames(entry, [index / reading.fps for index in range(reading.frames)], reading.size)
    except BrokenClip as error:
        return error
    return {name: network(frames, entry.caption) for name, network in networks.items()}


def _keep(place: Path, found: dict[str, Tensor] | BrokenClip) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    _this_time(place).unlink(missing_ok=True)
    if isinstance(found, dict):
        write_tensor_file(place, found)
    else:
        write_tensor_file(_this_time(place) if found.passing else place, {}, {BROKEN: str(found)})


def _this_time(place: Path) -> Path:
    """The file for a reason that may pass."""
    return place.with_suffix(".passing")


def _place(folder: Path, entry: Entry, network: FeatureNetwork, reading: Reading) -> Path:
    """The file's name depends on everything that the features depend on."""
    about = [str(entry.path.resolve()), entry.member, entry.start, entry.end, *size_and_time(entry.path)]
    text = json.dumps([about, entry.caption, network.identity, asdict(reading)])
    return folder / network.identity / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"


def _text_beside(video: Path) -> str:
    try:
        return " ".join(video.with_suffix(".txt").read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError):
        return ""
