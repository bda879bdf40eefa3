"""Journals: an append-only file of every finished frame's latent, so that an interrupted run can continue.

A journal does not depend on networks. With each frame it stores a digest of everything that decided the frame. A later
run computes the same digests, takes the frames that match, and generates the rest. Digests are chained, so a frame
matches only if all frames before it match. Not in the paper.
"""

import hashlib
import itertools
import os
import secrets
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from filelock import FileLock
from torch import Tensor

from ..files.partial_file import flush_to_disk, reason
from ..files.user_errors import Remedy, UserError
from ..method.frames import Frame
from .journal_file import CRC, SUFFIX, JournalHeader, JournalReader, pack
from .journal_folder import lock_journal, lock_path, newest_first, remove_quietly, sweep

FLUSH_SECONDS = 2.0
"""Time between flushes to the disk. A power cut may lose the frames of this time."""


class RunInputs(Protocol):
    """Digests of everything that decides the frames of a run: shared inputs, and inputs of single frames."""

    @property
    def common(self) -> str:
        """The digest of the inputs that all frames share, hexadecimal."""
        ...

    def frame(self, index: int) -> bytes:
        """The inputs of frame `index` alone, without the frames before it."""
        ...


class Journal:
    """One run's journal: its existing frames can be read, and more appended. Use `open_journal` to make one.

    A context manager. `found` is the number of frames when it was opened, `count` the number now.
    """

    def __init__(self, path: Path, inputs: RunInputs, found: int, digest: bytes, lock: FileLock | None) -> None:
        self.path, self.found, self.count = path, found, found
        self._inputs, self._digest, self._lock = inputs, digest, lock
        self._reader = JournalReader(path)
        self._file: Any = None
        self._flushed = time.monotonic()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def frames(self) -> Iterator[Frame]:
        """The frames that the journal contained when it was opened."""
        return self._reader.frames(limit=self.found)

    def append(self, frame: Frame) -> None:
        """Append the next frame. Raises ValueError if it cannot be written; the frames before it stay."""
        if frame.index != self.count:
            raise ValueError(f"the journal's next frame is {self.count}, got frame {frame.index}")
        digest = chained(self._digest, self._inputs.frame(frame.index))
        record = pack(frame, digest, self._reader.header, self._reader.crc)
        try:
            self._write(record)
        except OSError as error:
            self._cut()
            found = f"cannot write journal {self.path}: {reason(error)}; its {self.count} frames are kept"
            raise UserError(found, Remedy.NO_JOURNAL, before="free some disk space and run again, or ") from None
        self.count += 1
        self._digest = digest

    def close(self) -> None:
        """Flush the journal to the disk, close it and release its lock."""
        if self._file is not None:
            with suppress(OSError):
                flush_to_disk(self._file.fileno())
            self._file.close()
            self._file = None
        self._reader.__exit__()
        if self._lock is not None:
            self._lock.release()

    def _write(self, record: bytes) -> None:
        if self._file is None:
            self._file = self.path.open("r+b", buffering=0)
            self._cut()  # removes an incomplete record of a process that was killed
            self._file.seek(self._reader.end_of(self.count))
        rest = memoryview(record)
        while rest:
            rest = rest[self._file.write(rest) :]
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            flush_to_disk(self._file.fileno())
            self._flushed = time.monotonic()

    def _cut(self) -> None:
        """Remove everything after the last complete frame."""
        if self._file is None:
            return
        with suppress(OSError):
            end = self._reader.end_of(self.count)
            self._file.truncate(end)
            self._file.seek(end)


def journaled(
    journal: Journal, given: Sequence[Tensor], make: Callable[[Iterator[Tensor]], Iterator[Frame]]
) -> Iterator[Frame]:
    """All frames of a run: first those in the journal, then the `given` ones (each [B, C, h, w]) that it lacks, then
    those from `make`, which gets the latents of all these. Each frame is in the journal before it is yielded."""
    yield from journal.frames()
    for index in range(journal.found, len(given)):
        frame = Frame(index, given[index], None)
        journal.append(frame)
        yield frame
    before = itertools.chain((frame.latent for frame in journal.frames()), given[journal.found :])
    for frame in make(before):
        journal.append(frame)
        yield frame


def chained(before: bytes, inputs: bytes) -> bytes:
    """The digest of a frame, from the digest of the frame before and the frame's own inputs."""
    return hashlib.blake2b(before + inputs, digest_size=16).digest()


# Finding the journal that a run continues


def open_journal(
    folder: str | Path,
    inputs: RunInputs,
    shape: tuple[int, ...],
    about: Mapping[str, Any],
    *,
    num_frames: int = 0,
    start_over: bool = False,
) -> Journal:
    """Open the journal with the most frames of this run, ready for more frames. If there is none, make a new one.

    `num_frames` is the run's length, 0 for no end. If all frames of the journal belong to this run, it is extended. If
    only its first frames do, if another process is using it, or if it may not be written, those frames are copied to a
    new journal, and the old one does not change. With `start_over`, old journals are ignored and kept. Raises
    ValueError if the folder or file cannot be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        match = None if start_over else _best_match(folder, inputs, num_frames)
        if match is not None and match.is_whole:
            journal = _locked(match.path, inputs, num_frames)
            if journal is not None:
                return journal
        return _create(folder, inputs, JournalHeader(inputs.common, _four(shape), about), match)
    except OSError as error:
        found = f"cannot keep a journal in {folder}: {reason(error)}"
        raise UserError(found, Remedy.NO_JOURNAL, before="make that folder writable, or ") from None


@dataclass(frozen=True)
class _Match:
    """A journal whose first `count` frames belong to the run. `digest` is that of the last of these frames. If it
    `is_whole`, the run needs no other frames than these, or the journal has no others."""

    path: Path
    count: int
    num_records: int
    digest: bytes
    is_whole: bool


def _best_match(folder: Path, inputs: RunInputs, num_frames: int) -> _Match | None:
    """The journal with the most matching frames, the newest if there are several. None if no journal matches."""
    best: _Match | None = None
    for path in newest_first(folder):
        with suppress(ValueError, OSError), JournalReader(path) as reader:
            if reader.header.run == inputs.common:
                match = _match(reader, inputs, num_frames)
                of_this_run = match.count > 0 or match.num_records == 0
                best = match if of_this_run and (best is None or match.count > best.count) else best
    return best


def _match(reader: JournalReader, inputs: RunInputs, num_frames: int) -> _Match:
    count, digest = 0, b""
    for frame, found in reader.records(limit=num_frames or None):
        expected = chained(digest, inputs.frame(frame.index))
        if expected != found:
            break
        count, digest = count + 1, expected
    num_records = reader.num_records
    return _Match(reader.path, count, num_records, digest, count == num_records or 0 < count == num_frames)


def _locked(path: Path, inputs: RunInputs, num_frames: int) -> Journal | None:
    """A journal that matched, for more frames. None if another process is using it, has removed it, or has added frames
    that do not belong to the run before it was locked. None, too, if it or its lock file may not be written."""
    try:
        path.open("r+b").close()
        lock = lock_journal(path)
    except (FileNotFoundError, PermissionError):
        return None
    if lock is None:
        return None
    with ExitStack() as held, suppress(ValueError):
        held.callback(lock.release)
        with JournalReader(path) as reader:
            match = _match(reader, inputs, num_frames)
        if match.is_whole:
            journal = Journal(path, inputs, match.count, match.digest, lock)
            held.pop_all()
            return journal
    return None


def _create(folder: Path, inputs: RunInputs, header: JournalHeader, match: _Match | None) -> Journal:
    """Make a journal that begins with the frames of `match`. It gets its final name when these are written."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}{SUFFIX}"
    path, temporary = folder / name, folder / f".{name}.partial"
    lock = lock_journal(path)
    try:
        start = header.to_bytes()
        with temporary.open("xb") as file:
            file.write(start)
            if match is not None:
                crc = zlib.crc32(start[: -CRC.size])
                with JournalReader(match.path) as reader:
                    for frame, digest in reader.records(limit=match.count):
                        file.write(pack(frame, digest, header, crc))
            file.flush()
            flush_to_disk(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if lock is not None:
            lock.release()
        remove_quietly(temporary, lock_path(path))
        raise
    return Journal(path, inputs, match.count if match else 0, match.digest if match else b"", lock)


def _four(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    batch, channels, height, width = shape
    return batch, channels, height, width
