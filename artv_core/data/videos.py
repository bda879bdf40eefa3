"""Raw videos as clips to train on. Each is looked at once, and decoded when it is drawn."""

import hashlib
import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from ..files.file_locks import locked
from ..files.partial_file import replacing
from .buckets import make_buckets, nearest_bucket
from .clips import BrokenClip, ClipIndex
from .decode import count_frames, probe, read_frames
from .sources import Entry, list_entries

_FACTS_VERSION = 2  # raise it when `probe` finds other facts than before
_BLOCK = 4096  # clips queued to be looked at


@dataclass
class Skipped:
    """What was left out of a source: the number of clips by reason, and one line for each that begins with its name."""

    reasons: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)

    def add(self, reason: str, line: str) -> None:
        """Add a clip that is left out."""
        self.reasons[reason] += 1
        self.lines.append(line)

    def summary(self, names: int = 3) -> str:
        """One line: `3 clips left out (2 broken, 1 too short): a.mp4: it is damaged; ...`, or "" if none were left
        out."""
        if not self.lines:
            return ""
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(self.reasons.items()))
        more = "; ..." if len(self.lines) > names else ""
        clips = "1 clip" if len(self.lines) == 1 else f"{len(self.lines)} clips"
        return f"{clips} left out ({counts}): {'; '.join(self.lines[:names])}{more}"

    def write(self, path: str | Path) -> None:
        """Write all lines to a text file. Raises ValueError if it cannot be written."""
        with replacing(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in self.lines), "utf-8", "backslashreplace")


def open_videos(
    source: str | Path,
    fps: float,
    size: tuple[int, int],
    multiple: int,
    *,
    cache: str | Path | None,
    bucketed: bool = True,
    min_frames: int = 3,
    workers: int = 8,
) -> tuple["VideoClips", Skipped]:
    """The clips of a source (`list_entries`) at `fps`, and what was left out: clips without a caption, clips that
    cannot be read, and those with fewer than `min_frames` frames.

    Each clip has the size of its bucket in `make_buckets(size, multiple)` or, if not `bucketed`, is cropped to `size`
    (height, width). `workers` threads look at all clips once. What they find is stored in the folder `cache` and used
    again as long as a file's size and date are the same. Processes that share the folder wait for the first one. Raises
    ValueError if not a single clip can be used.
    """
    buckets = make_buckets(size, multiple) if bucketed else (size,)
    cache = None if cache is None else Path(cache)
    with _locked(cache):
        entries, problems = list_entries(source, cache)
        facts = _facts(entries, _facts_file(source, cache), workers)
    skipped = Skipped()
    for problem in problems:
        skipped.add("without caption or unreadable", problem)
    kept = np.zeros(len(entries), bool)
    frames = np.zeros(len(entries), np.int32)
    for number, entry in enumerate(entries):
        if number in facts.faults:
            skipped.add("broken", f"{entry.name}: {facts.faults[number]}")
            continue
        frames[number] = count_frames(facts.duration[number], fps)
        kept[number] = frames[number] >= min_frames
        if not kept[number]:
            line = f"{entry.name}: {frames[number]} frames at {fps:g} per second, needed are {min_frames}"
            skipped.add("too short", line)
    if not kept.any():
        raise ValueError(f"no clip of {source} can be used; {skipped.summary(1)}")
    nearest = _nearest(facts.height[kept], facts.width[kept], buckets)
    chosen = [entry for entry, keep in zip(entries, kept, strict=True) if keep]
    return VideoClips(chosen, frames[kept], nearest, buckets, fps), skipped


class VideoClips:
    """A `ClipSource` of videos. Entries are stored as columns, so that millions of them can be sent to worker processes
    quickly."""

    holds_latents = False

    def __init__(
        self,
        entries: Sequence[Entry],
        num_frames: np.ndarray,
        bucket: np.ndarray,
        buckets: tuple[tuple[int, int], ...],
        fps: float,
    ) -> None:
        """`num_frames` (at `fps`) and `bucket` have one number for each entry."""
        files: dict[tuple[str, str], int] = {}
        group = [files.setdefault((str(entry.path), entry.label), len(files)) for entry in entries]
        self.fps = fps
        self.index = ClipIndex(num_frames.astype(np.int32), bucket.astype(np.int16), np.array(group, np.int32), buckets)
        self._paths, self._labels = _Texts(path for path, _ in files), _Texts(label for _, label in files)
        self._captions = _Texts(entry.caption for entry in entries)
        self._members = _Texts(entry.member or "" for entry in entries)
        ends = [np.nan if entry.end is None else entry.end for entry in entries]
        self._seconds = np.array([[entry.start for entry in entries], ends])
        self._bytes = np.array([[entry.offset, entry.size, entry.repeat] for entry in entries], np.int64)

    def entry(self, clip: int) -> Entry:
        """The clip's file, and which part of it."""
        file = int(self.index.group[clip])
        start, end = self._seconds[:, clip].tolist()
        offset, size, repeat = self._bytes[clip].tolist()
        return Entry(
            Path(self._paths[file]),
            self._members[clip] or None,
            self._captions[clip],
            start,
            None if end != end else end,
            self._labels[file],
            offset,
            size,
            repeat,
        )

    def name(self, clip: int) -> str:
        """See `Entry.name`."""
        return self.entry(clip).name

    def caption(self, clip: int) -> str:
        """Its caption."""
        return self._captions[clip]

    def frames(self, clip: int, positions: Sequence[int]) -> Tensor:
        """[n, 3, H, W] in [0, 1]; position k is the frame shown at k / fps seconds. Raises BrokenClip."""
        size = self.index.buckets[self.index.bucket[clip]]
        return read_frames(self.entry(clip), [position / self.fps for position in positions], size)

    def context(self, clip: int) -> None:
        """None, because videos have no text embeddings."""
        return None


class _Texts:
    """Many strings, stored in two arrays."""

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode(errors="surrogateescape") for text in texts]
        self._ends = np.cumsum([len(data) for data in encoded], dtype=np.int64)
        self._data = np.frombuffer(b"".join(encoded), np.uint8)

    def __getitem__(self, number: int) -> str:
        start = self._ends[number - 1] if number else 0
        return self._data[start : self._ends[number]].tobytes().decode(errors="surrogateescape")


# Facts


@dataclass
class _Facts:
    """Columns with one row for each entry, and what is wrong with entries that cannot be read."""

    duration: np.ndarray  # seconds
    height: np.ndarray  # pixels
    width: np.ndarray
    faults: dict[int, str]


def _facts(entries: Sequence[Entry], file: Path | None, workers: int) -> _Facts:
    """Facts read from `file`, or found by looking at the clips. New ones are written to `file`, also on an
    interrupt."""
    keys = _keys(entries)
    facts, known = _read_facts(keys, file)
    missing = np.flatnonzero(~known)
    if not len(missing):
        return facts
    try:
        with ThreadPoolExecutor(max(1, workers)) as pool, _progress(len(missing)) as progress:
            for start in range(0, len(missing), _BLOCK):
                block = missing[start : start + _BLOCK].tolist()
                for number, found in zip(block, pool.map(_look_at, [entries[n] for n in block]), strict=True):
                    _note(facts, number, found)
                    known[number] = not (isinstance(found, BrokenClip) and found.passing)
                    progress.update()
    finally:
        _write_facts(facts, keys, known, file)
    return facts


def _look_at(entry: Entry) -> tuple[float, int, int] | BrokenClip:
    """(seconds, height, width), or why it is broken, without its name."""
    try:
        found = probe(entry)
    except BrokenClip as error:
        return BrokenClip(str(error).removeprefix(f"{entry.name}: "), error.passing)
    return found.duration, found.height, found.width


def _note(facts: _Facts, number: int, found: tuple[float, int, int] | BrokenClip) -> None:
    if isinstance(found, BrokenClip):
        facts.faults[number] = str(found)
    else:
        facts.duration[number], facts.height[number], facts.width[number] = found


def _keys(entries: Sequence[Entry]) -> np.ndarray:
    """A number [N] for each entry that identifies everything its facts depend on; 0 for a missing file."""
    keys = np.zeros(len(entries), np.uint64)
    path, state = None, ""
    for number, entry in enumerate(entries):
        if entry.path is not path:
            path, state = entry.path, _state(entry.path)
        if state:
            text = f"{_FACTS_VERSION} {state} {entry.start} {entry.end} {entry.offset} {entry.size}"
            keys[number] = int(_digest(text), 16)
    return keys


def _state(path: Path) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"


def _read_facts(keys: np.ndarray, file: Path | None) -> tuple[_Facts, np.ndarray]:
    """The stored facts of these keys, and for which keys there are any [N]."""
    count = len(keys)
    facts = _Facts(np.zeros(count), np.zeros(count, np.int32), np.zeros(count, np.int32), {})
    known = np.zeros(count, bool)
    if file is None:
        return facts, known
    try:
        with np.load(file) as columns:
            kept = {name: columns[name] for name in ("keys", "duration", "height", "width", "broken", "faults")}
        reasons = kept["faults"].tobytes().decode().split("\n") if len(kept["broken"]) else []
        faults = dict(zip(kept["broken"].tolist(), reasons, strict=True))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return facts, known  # no such file yet, or another kind of file; it will be replaced
    rows = np.minimum(np.searchsorted(kept["keys"], keys), max(0, len(kept["keys"]) - 1))
    known = kept["keys"][rows] == keys if len(kept["keys"]) else known
    for name in ("duration", "height", "width"):
        getattr(facts, name)[known] = kept[name][rows[known]]
    facts.faults.update(
        (number, faults[row]) for number, row in enumerate(rows.tolist()) if known[number] and row in faults
    )
    return facts, known


def _write_facts(facts: _Facts, keys: np.ndarray, known: np.ndarray, file: Path | None) -> None:
    if file is None:
        return
    order = np.argsort(keys, kind="stable")
    order = order[known[order] & (keys[order] != 0)]  # ascending, to be searched
    broken = [row for row, number in enumerate(order.tolist()) if number in facts.faults]
    faults = "\n".join(facts.faults[int(order[row])] for row in broken).encode(errors="replace")
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            keys=keys[order],
            duration=facts.duration[order],
            height=facts.height[order],
            width=facts.width[order],
            broken=np.array(broken, np.int64),
            faults=np.frombuffer(faults, np.uint8),
        )


def _progress(total: int) -> tqdm:
    return tqdm(total=total, desc="looking at videos", unit="clip", mininterval=5)


def _locked(cache: Path | None) -> AbstractContextManager[object]:
    if cache is None:
        return nullcontext()
    cache.mkdir(parents=True, exist_ok=True)
    return locked(cache / "videos.lock")


def _facts_file(source: str | Path, cache: Path | None) -> Path | None:
    return None if cache is None else cache / f"videos-{_digest(os.path.abspath(source))}.npz"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).hexdigest()


def _nearest(height: np.ndarray, width: np.ndarray, buckets: Sequence[tuple[int, int]]) -> np.ndarray:
    shapes, clips = np.unique(np.stack((height, width)), axis=1, return_inverse=True)
    nearest = [nearest_bucket(height, width, buckets) for height, width in shapes.T.tolist()]
    return np.array(nearest)[clips.reshape(-1)]
