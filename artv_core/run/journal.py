"""Journals: every finished frame's latent in an append-only file, so that a run that was cut off goes on where it was.

A journal knows nothing of networks. It keeps, with each frame, a digest of all that decided the frame; a later run
takes the frames whose digests are those it would have found itself, and makes the rest. Digests are chained, so a
frame is only taken with all the frames before it. Not in the paper.
"""

import hashlib
import itertools
import os
import secrets
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from filelock import FileLock
from torch import Tensor

from ..files.partial_file import flush_to_disk
from ..files.user_errors import Remedy, UserError
from ..method.frames import Frame
from .journal_file import CRC, SUFFIX, JournalHeader, JournalReader, fault, pack
from .journal_folder import lock_journal, lock_path, newest_first, remove_quietly, sweep

FLUSH_SECONDS = 2.0
"""Between two times that the disk is made to hold what was written: what a power cut may cost."""


class RunInputs(Protocol):
    """What decides the frames of a run, as digests: what all frames share, and what belongs to frame `index` alone."""

    @property
    def common(self) -> str:
        """Hexadecimal."""
        ...

    def frame(self, index: int) -> bytes:
        """Of what frame `index` is made from, other than the frames before it."""
        ...


class Journal:
    """One run's journal: the frames that are there already, and room for those that follow. Use `open_journal`.

    A context manager. `found` is how many frames were there when it was opened, `count` how many are there now.
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
        """The frames that were there when the journal was opened."""
        return self._reader.frames(limit=self.found)

    def append(self, frame: Frame) -> None:
        """Keep the next frame. Raises ValueError, one line, where it cannot be written; the frames before it stay."""
        if frame.index != self.count:
            raise ValueError(f"the journal's next frame is {self.count}, got frame {frame.index}")
        digest = chained(self._digest, self._inputs.frame(frame.index))
        record = pack(frame, digest, self._reader.header, self._reader.crc)
        try:
            self._write(record)
        except OSError as error:
            self._cut()
            found = f"cannot write journal {self.path}: {fault(error)}; its {self.count} frames are kept"
            raise UserError(found, Remedy.NO_JOURNAL, before="make room and run the same again, or ") from None
        self.count += 1
        self._digest = digest

    def close(self) -> None:
        """Have the disk hold what was written, and let others use the journal."""
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
            self._cut()  # what a process left that died while it wrote
            self._file.seek(self._reader.end_of(self.count))
        rest = memoryview(record)
        while rest:
            rest = rest[self._file.write(rest) :]
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            flush_to_disk(self._file.fileno())
            self._flushed = time.monotonic()

    def _cut(self) -> None:
        """Drop what follows the last whole frame."""
        if self._file is None:
            return
        with suppress(OSError):
            end = self._reader.end_of(self.count)
            self._file.truncate(end)
            self._file.seek(end)


def journaled(
    journal: Journal, given: Sequence[Tensor], make: Callable[[Iterator[Tensor]], Iterator[Frame]]
) -> Iterator[Frame]:
    """All frames of a run: those in the journal, then what it lacks of the given ones (each [B, C, h, w]), then those
    that `make(latents of all these)` makes; each is in the journal before it is handed on."""
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
    """The digest of a frame: of the frame before's, and of its own inputs."""
    return hashlib.blake2b(before + inputs, digest_size=16).digest()


# Which journal a run goes on with


def open_journal(
    folder: str | Path,
    inputs: RunInputs,
    shape: tuple[int, ...],
    about: Mapping[str, Any],
    *,
    num_frames: int = 0,
    start_over: bool = False,
) -> Journal:
    """The journal that holds most of this run's frames, ready for more; a new one where there is none.

    `num_frames` is the run's length, 0 for endless. A journal whose frames are this run's from the first to the last
    grows; of one that agrees up to some frame only, the frames up to there are copied to a new one, and nothing of the
    old one is lost. So it is where another process is using the journal, and where `start_over` leaves all of them
    aside. Raises ValueError, one line, where the folder or file cannot be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        match = None if start_over else _best_match(folder, inputs, num_frames)
        if match is None:
            return _create(folder, inputs, JournalHeader(inputs.common, _four(shape), about), None)
        is_whole = match.count == match.num_records or match.count == num_frames
        lock = lock_journal(match.path) if is_whole else None
        if lock is not None:
            return Journal(match.path, inputs, match.count, match.digest, lock)
        return _create(folder, inputs, JournalHeader(inputs.common, _four(shape), about), match)
    except OSError as error:
        found = f"cannot keep a journal in {folder}: {fault(error)}"
        raise UserError(found, Remedy.NO_JOURNAL, before="name another folder, or ") from None


@dataclass(frozen=True)
class _Match:
    """A journal whose first `count` frames are the run's; `digest` is the last one's."""

    path: Path
    count: int
    num_records: int
    digest: bytes


def _best_match(folder: Path, inputs: RunInputs, num_frames: int) -> _Match | None:
    """The longest, and the latest of equal ones; None where no journal is of this run."""
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
    return _Match(reader.path, count, reader.num_records, digest)


def _create(folder: Path, inputs: RunInputs, header: JournalHeader, match: _Match | None) -> Journal:
    """A new journal that begins with the frames of `match`. It has its name only once it is whole."""
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
