"""Journals: every finished frame's latent in an append-only file, so that a run that was cut off goes on where it was.

A journal knows nothing of networks. It keeps, with each frame, a digest of all that decided the frame; a later run
takes the frames whose digests are those it would have reckoned itself, and makes the rest. Digests are chained, so a
frame is only taken with all the frames before it. Ours.

A file is a header and records of one size, little-endian:
    header   b"ARTVJRN1", length of the JSON (uint32), JSON (UTF-8), CRC-32 of all that (uint32)
    record   frame index (uint64), has a mask (uint32), digest (16 bytes), latent [B, C, h, w] float32,
             mask [B, 1, h, w] float32 (zeros without one), CRC-32 of the record, begun with the header's (uint32)
A record that is incomplete or damaged ends what can be read; a process that dies while it writes leaves no other.
"""

import hashlib
import itertools
import json
import math
import os
import secrets
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ..files.file_locks import acquire
from ..files.partial_file import flush_to_disk, one_line
from ..method.frames import Frame

SUFFIX = ".artvj"
FOLDER = "artv_journals"
"""What the folder of journals is called inside a folder of outputs."""

MAX_HEADER = 2**16
MAX_RECORD = 2**28
FLUSH_SECONDS = 2.0
"""Between two times that the disk is made to hold what was written: what a power cut may cost."""

_OTHERWISE = "name another folder, or do without a journal (--no-journal)"
_MAGIC = b"ARTVJRN1"
_LENGTH = struct.Struct("<I")
_RECORD_START = struct.Struct("<QI16s")
_CRC = struct.Struct("<I")


class RunInputs(Protocol):
    """What decides the frames of a run, as digests: what all frames share, and what belongs to frame `index` alone."""

    @property
    def common(self) -> str:
        """Hexadecimal."""
        ...

    def frame(self, index: int) -> bytes:
        """Of what frame `index` is made from, besides the frames before it."""
        ...


@dataclass(frozen=True)
class JournalHeader:
    """What a journal begins with: `run` is `RunInputs.common`, `shape` a frame's [B, C, h, w], and `about` is for
    people and for who reads the frames back (text and numbers by name)."""

    run: str
    shape: tuple[int, int, int, int]
    about: Mapping[str, Any]

    @property
    def record_bytes(self) -> int:
        """How long each record is."""
        batch, channels, height, width = self.shape
        return _RECORD_START.size + 4 * batch * (channels + 1) * height * width + _CRC.size

    def to_bytes(self) -> bytes:
        """As it stands in the file."""
        text = json.dumps({"run": self.run, "shape": list(self.shape), "about": dict(self.about)}).encode()
        if len(text) > MAX_HEADER:
            raise ValueError(f"a journal's header takes {len(text)} bytes; at most {MAX_HEADER} are accepted")
        start = _MAGIC + _LENGTH.pack(len(text)) + text
        return start + _CRC.pack(zlib.crc32(start))


# Reading


class JournalReader:
    """Context manager: a journal opened for reading. Raises ValueError, one line, for a file that is none."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            if self.path.exists() and not self.path.is_file():  # opening a pipe would wait for ever
                raise ValueError("it is not an ordinary file")
            self._file: BinaryIO = self.path.open("rb")
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read journal {path}: {_fault(error)}") from None
        try:
            self.header, self._start, self._crc = _read_header(self._file, self.path)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "JournalReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def num_bytes(self) -> int:
        """The file's size."""
        return os.fstat(self._file.fileno()).st_size

    @property
    def num_records(self) -> int:
        """Whole records, sound or not."""
        return max(0, self.num_bytes - self._start) // self.header.record_bytes

    def end_of(self, num_frames: int) -> int:
        """The byte after the record of the last of so many frames."""
        return self._start + num_frames * self.header.record_bytes

    def records(self, first: int = 0, limit: int | None = None) -> Iterator[tuple[Frame, bytes]]:
        """Frames (tensors on the CPU) with their digests, from `first` on, up to the first that is not sound."""
        end = self.num_records if limit is None else min(self.num_records, limit)
        for index in range(max(0, first), end):
            self._file.seek(self.end_of(index))
            data = self._file.read(self.header.record_bytes)
            record = _unpack(data, index, self.header, self._crc) if len(data) == self.header.record_bytes else None
            if record is None:
                return
            yield record

    def frames(self, first: int = 0, limit: int | None = None) -> Iterator[Frame]:
        """The frames alone."""
        return (frame for frame, _ in self.records(first, limit))

    def count_sound(self, limit: int | None = None) -> int:
        """How many frames can be read from the first on, at most `limit`."""
        return sum(1 for _ in self.records(0, limit))


def _read_header(file: BinaryIO, path: Path) -> tuple[JournalHeader, int, int]:
    """The header, where it ends, and its checksum."""
    prefix = len(_MAGIC) + _LENGTH.size
    start = file.read(prefix)
    if start[: len(_MAGIC)] != _MAGIC or len(start) < prefix:
        raise ValueError(f"{path} is no journal of ARTV")
    (length,) = _LENGTH.unpack(start[len(_MAGIC) :])
    if length > MAX_HEADER:
        raise ValueError(f"{path} is damaged: its header claims {length} bytes, at most {MAX_HEADER} are accepted")
    rest = file.read(length + _CRC.size)
    crc = zlib.crc32(start + rest[:length])
    if len(rest) < length + _CRC.size or rest[length:] != _CRC.pack(crc):
        raise ValueError(f"{path} is damaged: its header is incomplete or was changed")
    try:
        header = _header_from(json.loads(rest[:length]))
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is damaged: its header does not say what a journal's must") from None
    return header, prefix + length + _CRC.size, crc


def _header_from(fields: Any) -> JournalHeader:
    """Raises ValueError for anything that no journal begins with."""
    if not isinstance(fields, dict):
        raise ValueError
    run, shape, about = fields.get("run"), fields.get("shape"), fields.get("about")
    whole = (
        isinstance(shape, list) and len(shape) == 4 and all(type(side) is int and 0 < side < 2**20 for side in shape)
    )
    if not (isinstance(run, str) and whole and isinstance(about, dict)):
        raise ValueError
    header = JournalHeader(run, tuple(shape), about)  # type: ignore[arg-type]
    if header.record_bytes > MAX_RECORD:
        raise ValueError
    return header


def _pack(frame: Frame, digest: bytes, header: JournalHeader, header_crc: int) -> bytes:
    batch, _, height, width = header.shape
    mask = torch.zeros(batch, 1, height, width) if frame.mask is None else frame.mask
    start = _RECORD_START.pack(frame.index, int(frame.mask is not None), digest)
    body = start + _to_bytes(frame.latent, header.shape) + _to_bytes(mask, (batch, 1, height, width))
    return body + _CRC.pack(zlib.crc32(body, header_crc))


def _to_bytes(tensor: Tensor, shape: tuple[int, ...]) -> bytes:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"a frame for the journal is {list(tensor.shape)}, its frames are {list(shape)}")
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4", copy=False).tobytes()


def _unpack(data: bytes, index: int, header: JournalHeader, header_crc: int) -> tuple[Frame, bytes] | None:
    """The frame and its digest, or None where the record is not what was written."""
    body = data[: -_CRC.size]
    found, has_mask, digest = _RECORD_START.unpack_from(body)
    if found != index or data[-_CRC.size :] != _CRC.pack(zlib.crc32(body, header_crc)):
        return None
    batch, _, height, width = header.shape
    numbers = torch.frombuffer(bytearray(body[_RECORD_START.size :]), dtype=torch.float32)
    latent, mask = numbers.split([math.prod(header.shape), batch * height * width])
    frame = Frame(index, latent.view(header.shape), mask.view(batch, 1, height, width) if has_mask else None)
    return frame, digest


# Writing


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
        record = _pack(frame, digest, self._reader.header, self._reader._crc)
        try:
            self._write(record)
        except OSError as error:
            self._cut()
            raise ValueError(
                f"cannot write journal {self.path}: {_fault(error)}; its {self.count} frames are kept, make room and "
                "run the same again, or do without a journal (--no-journal)"
            ) from None
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
        _sweep(folder)
        match = None if start_over else _best_match(folder, inputs, num_frames)
        if match is None:
            return _create(folder, inputs, JournalHeader(inputs.common, _four(shape), about), None)
        is_whole = match.count == match.num_records or match.count == num_frames
        lock = _lock(match.path) if is_whole else None
        if lock is not None:
            return Journal(match.path, inputs, match.count, match.digest, lock)
        return _create(folder, inputs, JournalHeader(inputs.common, _four(shape), about), match)
    except OSError as error:
        raise ValueError(f"cannot keep a journal in {folder}: {_fault(error)}; {_OTHERWISE}") from None


def chained(before: bytes, inputs: bytes) -> bytes:
    """The digest of a frame: of the frame before's, and of its own inputs."""
    return hashlib.blake2b(before + inputs, digest_size=16).digest()


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
    for path in _newest_first(folder):
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
    lock = _lock(path)
    try:
        start = header.to_bytes()
        with temporary.open("xb") as file:
            file.write(start)
            if match is not None:
                crc = zlib.crc32(start[: -_CRC.size])
                with JournalReader(match.path) as reader:
                    for frame, digest in reader.records(limit=match.count):
                        file.write(_pack(frame, digest, header, crc))
            file.flush()
            flush_to_disk(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if lock is not None:
            lock.release()
        _remove_quietly(temporary, _lock_path(path))
        raise
    return Journal(path, inputs, match.count if match else 0, match.digest if match else b"", lock)


def _sweep(folder: Path) -> None:
    """Remove what a process left that died while it made a journal."""
    for partial in folder.glob(f".*{SUFFIX}.partial"):
        path = folder / partial.name.removeprefix(".").removesuffix(".partial")
        lock = _lock(path)
        if lock is not None:
            lock.release()
            _remove_quietly(partial, *([] if path.exists() else [_lock_path(path)]))


def _lock(path: Path) -> FileLock | None:
    """The right to append to a journal, or None while another has it. It ends with the process."""
    try:
        return acquire(_lock_path(path), timeout=0)
    except Timeout:
        return None


def _lock_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _four(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    batch, channels, height, width = shape
    return batch, channels, height, width


# Keeping house


@dataclass(frozen=True)
class JournalInfo:
    """A journal in a list: `num_frames` are whole records, `modified` seconds since 1970, `about` the header's."""

    path: Path
    num_frames: int
    num_bytes: int
    modified: float
    shape: tuple[int, int, int, int]
    about: Mapping[str, Any]


def list_journals(folder: str | Path) -> list[JournalInfo]:
    """The journals of a folder, the latest first; what is no journal is passed over."""
    found = []
    for path in _newest_first(Path(folder)):
        with suppress(ValueError, OSError), JournalReader(path) as reader:
            info = (reader.num_records, reader.num_bytes, path.stat().st_mtime)
            found.append(JournalInfo(path, *info, reader.header.shape, reader.header.about))
    return found


def remove_journal(path: str | Path) -> None:
    """Raises ValueError, one line, where it is no journal, or in use."""
    with JournalReader(path) as reader:
        path = reader.path
    try:
        lock = _lock(path)
    except OSError as error:
        raise ValueError(f"cannot remove {path}: {_fault(error)}") from None
    if lock is None:
        raise ValueError(f"{path} is in use; stop the run that writes it first")
    try:
        path.unlink()
    except OSError as error:
        raise ValueError(f"cannot remove {path}: {_fault(error)}") from None
    finally:
        lock.release()
        _remove_quietly(_lock_path(path))


_SHOWN = ("checkpoint", "width", "height", "seed", "prompt")


def journal_table(journals: Sequence[JournalInfo]) -> str:
    """Lines for people: name, frames, size, when, what."""
    if not journals:
        return "no journals"
    total = sum(journal.num_bytes for journal in journals)
    lines = [f"{len(journals)} journals, {readable_size(total)}"]
    for journal in journals:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(journal.modified))
        what = ", ".join(
            f"{name} {one_line(str(value), 60)}" for name, value in journal.about.items() if name in _SHOWN
        )
        lines.append(
            f"{journal.path.name}  {journal.num_frames} frames  {readable_size(journal.num_bytes)}  {when}  {what}"
        )
    return "\n".join(lines)


def readable_size(num_bytes: int) -> str:
    """Bytes for people: 12.3 MB."""
    size, units = float(num_bytes), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "bytes" else f"{size:.1f} {units[0]}"


def _newest_first(folder: Path) -> list[Path]:
    with suppress(OSError):
        paths = [path for path in folder.iterdir() if path.suffix == SUFFIX and path.is_file()]
        return sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    return []


def _remove_quietly(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()


def _fault(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return strerror.lower() if strerror else " ".join(str(error).split())[:200] or type(error).__name__
