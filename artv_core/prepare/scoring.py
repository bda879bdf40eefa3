"""Step 2: facts and scores of every entry, stored in files, so that no entry is scored twice.

Workers write files of a few entries each. These are gathered into shards of thousands, each with an index beside it
(keys, and where their records begin), so that ten million clips are about 2,400 files, and starting reads no
record.

Clips that could not be read because the drive or the system failed have records in the folder `passing` inside it, for
this run only.

An entry's key is a hash of its name, caption and seconds, and of its file's size and time. Records are found by key, so
adding, removing or reordering clips leaves the scores of the others as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.clips import BrokenClip
from ..data.decode import probe
from ..data.sources import Entry, size_and_time
from ..files.partial_file import replacing
from .tasks import Task, write_tasks

VERSION = 2
"""Version of how scores are made; raising it makes all of them again."""

CHUNK = 32
"""Entries in a worker's file. This is how much work is lost when a worker is killed. Not in the paper."""

SHARD = 8192
"""Entries in a shard, sometimes a few more."""

_OUTDATED = b"or not an MP4, MOV, MKV, WebM, AVI or MPEG-TS file"
"""Part of the text in records of earlier releases about kinds of videos that can be read now. These entries are scored
again."""

PASSING = "passing"

_SHARD_NAME = re.compile(r"shard-(\d+)-[0-9a-f]{16}\.jsonl")


class Scorer:
    """A `Worker` that makes a file of records."""

    def __init__(
        self,
        cut_threshold: float,
        clip_frames: int,
        clip_model: str | None,
        clip_weights: str | None,
        dtype: str,
        device: str,
    ) -> None:
        self.cut_threshold, self.clip_frames = cut_threshold, clip_frames
        self.clip = None
        if clip_model is not None and clip_weights is not None:
            from .clip_score import ClipScorer

            self.clip = ClipScorer(clip_model, clip_weights, device, dtype)

    def make(self, lines: list[dict[str, Any]], target: Path) -> None:
        """Write one record for each line."""
        records: dict[bool, list[str]] = {False: [], True: []}
        for line in lines:
            record, passing = self._record(read_entry(line))
            records[passing].append(json.dumps({"key": line["key"], **record}) + "\n")
        for place, passing in ((target.parent / PASSING / target.name, True), (target, False)):
            if records[passing]:
                place.parent.mkdir(exist_ok=True)
                with replacing(place) as partial:
                    partial.write_text("".join(records[passing]), encoding="utf-8")

    def _record(self, entry: Entry) -> tuple[dict[str, Any], bool]:
        """The record, and whether it may be another one next time."""
        from .motion import measure_motion

        try:
            facts = probe(entry)
            motion = measure_motion(entry, facts.duration, self.cut_threshold)
            whole = self._clip_score(entry, 0.0, facts.duration)
            shots = [
                [
                    shot.start,
                    shot.end,
                    shot.motion,
                    whole if len(motion.shots) == 1 else self._clip_score(entry, shot.start, shot.end),
                ]
                for shot in motion.shots
            ]
        except BrokenClip as error:
            return {"broken": str(error).removeprefix(f"{entry.name}: ")}, error.passing
        sizes = {"duration": facts.duration, "height": facts.height, "width": facts.width}
        return {**sizes, "motion": motion.score, "clip": whole, "shots": shots}, False

    def _clip_score(self, entry: Entry, start: float, end: float) -> float | None:
        if self.clip is None:
            return None
        return self.clip.score(entry, start, end, self.clip_frames)


class ScoreStore:
    """All records in a folder, in shards or in small files, found by key. Only their positions are in memory."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted([*folder.glob("*.jsonl"), *(folder / PASSING).glob("*.jsonl")])
        keys: list[np.ndarray] = []
        places: list[np.ndarray] = []
        for number, path in enumerate(self.files):
            found, starts = _keys_in(path)
            keys.append(found)
            places.append(np.stack([np.full_like(starts, number), starts], axis=1))
        all_keys = np.concatenate(keys) if keys else np.empty(0, np.uint64)
        all_places = np.concatenate(places) if places else np.empty((0, 2), np.int64)
        order = np.argsort(all_keys, kind="stable")
        self._keys, self._places = all_keys[order], all_places[order]

    def holds(self, keys: np.ndarray) -> np.ndarray:
        """Whether there is a record for each key."""
        if not len(self._keys):
            return np.zeros(len(keys), bool)
        return self._keys[self._at(keys)] == keys

    def records(self, keys: np.ndarray) -> Iterator[dict[str, Any]]:
        """The record of each key, in the order of the keys."""
        last, file = -1, None
        try:
            for number, start in self._places[self._at(keys)].tolist():
                if file is None or number != last:
                    if file is not None:
                        file.close()
                    last, file = number, self.files[number].open("rb")
                file.seek(start)
                yield json.loads(file.readline())
        finally:
            if file is not None:
                file.close()

    def _at(self, keys: np.ndarray) -> np.ndarray:
        return np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)


def entry_keys(entries: Sequence[Entry]) -> np.ndarray:
    """The key of each entry, uint64 [N]. Missing files count as empty."""
    seen: dict[Path, tuple[int, int]] = {}
    keys = np.empty(len(entries), np.uint64)
    for number, entry in enumerate(entries):
        if entry.path not in seen:
            seen.clear()  # parts of one file, and members of one shard, come one after another
            seen[entry.path] = size_and_time(entry.path)
        told = [entry.name, entry.caption, entry.start, entry.end, *seen[entry.path]]
        digest = hashlib.sha256(json.dumps(told).encode()).digest()
        keys[number] = int.from_bytes(digest[:8], "little")
    return keys


def forget_passing(folder: Path) -> None:
    """Remove the records of clips that the last run could not read because the drive or the system failed."""
    for path in (folder / PASSING).glob("*"):
        path.unlink(missing_ok=True)


def plan_scores(folder: Path, entries: Sequence[Entry], keys: np.ndarray, path: Path) -> list[Task]:
    """Tasks for all entries that have no record in `folder`; their lines are written to `path`."""
    lacking = np.flatnonzero(~ScoreStore(folder).holds(keys))
    _, first = np.unique(keys[lacking], return_index=True)
    lacking = lacking[np.sort(first)]

    def pieces() -> Iterator[tuple[str, list[dict[str, Any]]]]:
        for start in range(0, len(lacking), CHUNK):
            chunk = lacking[start : start + CHUNK]
            name = hashlib.sha256(keys[chunk].tobytes()).hexdigest()[:16]
            lines = [{"key": int(keys[number]), **entry_line(entries[number])} for number in chunk]
            yield str((folder / f"{name}.jsonl").absolute()), lines

    return write_tasks(path, pieces())


def entry_line(entry: Entry) -> dict[str, Any]:
    """An entry as a dict for JSON."""
    fields = {name: getattr(entry, name) for name in Entry.__dataclass_fields__}
    return fields | {"path": str(entry.path.absolute())}


def read_entry(line: dict[str, Any]) -> Entry:
    """The entry that `entry_line` wrote."""
    return Entry(**{name: line[name] for name in Entry.__dataclass_fields__} | {"path": Path(line["path"])})


def gather_scores(folder: Path) -> None:
    """Move the records of all small files in `folder` into shards. A folder of an earlier release is converted to
    shards; a folder without small files stays as it is. Can be killed safely, and can run while workers write more.

    The one shard that is not full yet is rewritten with the new records.
    """
    shards, loose = _files_in(folder)
    if not loose:
        return
    sources: list[Path] = []
    records: dict[int, bytes] = {}
    for path in (*(path for path, count in shards if count < SHARD), *loose):
        for line in path.read_bytes().splitlines(keepends=True):
            if _OUTDATED not in line:
                records.setdefault(json.loads(line)["key"], line)
        sources.append(path)
        if len(records) >= SHARD:
            _write_shard(folder, records, sources)
            sources, records = [], {}
    if sources:
        _write_shard(folder, records, sources)


def _files_in(folder: Path) -> tuple[list[tuple[Path, int]], list[Path]]:
    """The shards, each with the number of its records, and the small files."""
    names = sorted(path.name for path in folder.glob("*.jsonl"))
    found = [(name, _SHARD_NAME.fullmatch(name)) for name in names]
    shards = [(folder / name, int(match[1])) for name, match in found if match]
    return shards, [folder / name for name, match in found if not match]


def _write_shard(folder: Path, records: dict[int, bytes], sources: Sequence[Path]) -> None:
    """Write a shard and its index, then remove the files it was made from."""
    digest = hashlib.sha256(np.array(list(records), np.uint64).tobytes()).hexdigest()[:16]
    shard = folder / f"shard-{len(records):08d}-{digest}.jsonl"
    with replacing(shard) as partial, partial.open("wb") as file:
        file.writelines(records.values())
    _indexed(shard)
    for path in sources:
        if path != shard:
            path.unlink(missing_ok=True)
            _index_of(path).unlink(missing_ok=True)


def _keys_in(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The keys of a file's records and where these begin. For a shard they come from its index, which is rebuilt if it
    is missing or belongs to another version of the file."""
    if not _SHARD_NAME.fullmatch(path.name):
        return _parsed(path)
    try:
        with np.load(_index_of(path), allow_pickle=False) as index:
            if int(index["size"]) == path.stat().st_size:
                return index["keys"], index["starts"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
        pass
    return _indexed(path)


def _indexed(shard: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write a shard's index, and return its content."""
    keys, starts = _parsed(shard)
    with replacing(_index_of(shard)) as partial, partial.open("wb") as file:
        np.savez(file, keys=keys, starts=starts, size=shard.stat().st_size)
    return keys, starts


def _index_of(path: Path) -> Path:
    return path.with_suffix(".npz")


def _parsed(path: Path) -> tuple[np.ndarray, np.ndarray]:
    data = path.read_bytes()
    keys, starts, start = [], [], 0
    for line in data.splitlines(keepends=True):
        keys.append(json.loads(line)["key"])
        starts.append(start)
        start += len(line)
    return np.array(keys, np.uint64), np.array(starts, np.int64)
