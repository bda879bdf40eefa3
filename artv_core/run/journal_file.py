"""The file format of journals, and its reader.

A file has a header and records of equal size, little-endian:
    header   b"ARTVJRN1", length of the JSON (uint32), JSON (UTF-8), CRC-32 of all that (uint32)
    record   frame index (uint64), has a mask (uint32), digest (16 bytes), latent [B, C, h, w] float32,
             mask [B, 1, h, w] float32 (zeros if there is none), CRC-32 of the record, continued from the header's
             CRC-32 (uint32)
Reading stops at a record that is incomplete or damaged. If a process dies while writing, only its last record can be
incomplete.
"""

import json
import math
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..files.partial_file import reason
from ..method.frames import Frame

SUFFIX = ".artvj"
MAX_HEADER = 2**16
MAX_RECORD = 2**28
_MAGIC = b"ARTVJRN1"
_LENGTH = struct.Struct("<I")
_RECORD_START = struct.Struct("<QI16s")
CRC = struct.Struct("<I")


@dataclass(frozen=True)
class JournalHeader:
    """The header of a journal. `run` is `RunInputs.common`, `shape` the shape [B, C, h, w] of a frame. `about` has text
    and numbers by name, for users and for code that reads the frames."""

    run: str
    shape: tuple[int, int, int, int]
    about: Mapping[str, Any]

    @property
    def record_bytes(self) -> int:
        """Size of each record in bytes."""
        batch, channels, height, width = self.shape
        return _RECORD_START.size + 4 * batch * (channels + 1) * height * width + CRC.size

    def to_bytes(self) -> bytes:
        """The header's bytes in the file. Raises ValueError if they are more than `MAX_HEADER`."""
        text = json.dumps({"run": self.run, "shape": list(self.shape), "about": dict(self.about)}).encode()
        if len(text) > MAX_HEADER:
            raise ValueError(f"a journal's header takes {len(text)} bytes; at most {MAX_HEADER} are accepted")
        start = _MAGIC + _LENGTH.pack(len(text)) + text
        return start + CRC.pack(zlib.crc32(start))


class JournalReader:
    """Context manager: a journal opened for reading. Raises ValueError if the file is not a journal."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            if self.path.exists() and not self.path.is_file():  # opening a pipe would never return
                raise ValueError("it is not an ordinary file")
            self._file: BinaryIO = self.path.open("rb")
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read journal {path}: {reason(error)}") from None
        try:
            self.header, self._start, self.crc = _read_header(self._file, self.path)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "JournalReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def num_bytes(self) -> int:
        """Size of the file in bytes."""
        return os.fstat(self._file.fileno()).st_size

    @property
    def num_records(self) -> int:
        """Number of complete records, including damaged ones."""
        return max(0, self.num_bytes - self._start) // self.header.record_bytes

    def end_of(self, num_frames: int) -> int:
        """The offset of the end of the first `num_frames` records."""
        return self._start + num_frames * self.header.record_bytes

    def records(self, first: int = 0, limit: int | None = None) -> Iterator[tuple[Frame, bytes]]:
        """Frames (tensors on the CPU) with their digests, from index `first` up to `limit` (not included) or to the
        first damaged record."""
        end = self.num_records if limit is None else min(self.num_records, limit)
        for index in range(max(0, first), end):
            self._file.seek(self.end_of(index))
            data = self._file.read(self.header.record_bytes)
            record = _unpack(data, index, self.header, self.crc) if len(data) == self.header.record_bytes else None
            if record is None:
                return
            yield record

    def frames(self, first: int = 0, limit: int | None = None) -> Iterator[Frame]:
        """Like `records`, without the digests."""
        return (frame for frame, _ in self.records(first, limit))

    def count_sound(self, limit: int | None = None) -> int:
        """Number of frames that can be read from the beginning, at most `limit`."""
        return sum(1 for _ in self.records(0, limit))


def _read_header(file: BinaryIO, path: Path) -> tuple[JournalHeader, int, int]:
    """The header, the offset of its end, and its CRC-32. Raises ValueError if it is damaged or not a journal's."""
    prefix = len(_MAGIC) + _LENGTH.size
    start = file.read(prefix)
    if start[: len(_MAGIC)] != _MAGIC or len(start) < prefix:
        raise ValueError(f"{path} is not an ARTV journal")
    (length,) = _LENGTH.unpack(start[len(_MAGIC) :])
    if length > MAX_HEADER:
        raise ValueError(f"{path} is damaged: its header claims {length} bytes, at most {MAX_HEADER} are accepted")
    rest = file.read(length + CRC.size)
    crc = zlib.crc32(start + rest[:length])
    if len(rest) < length + CRC.size or rest[length:] != CRC.pack(crc):
        raise ValueError(f"{path} is damaged: its header is incomplete or was changed")
    try:
        header = _header_from(json.loads(rest[:length]))
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is damaged: its header is not valid for a journal") from None
    return header, prefix + length + CRC.size, crc


def _header_from(fields: Any) -> JournalHeader:
    """The header from its JSON. Raises ValueError if it is not valid."""
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


def pack(frame: Frame, digest: bytes, header: JournalHeader, header_crc: int) -> bytes:
    """The bytes of a frame's record. Raises ValueError if the frame's shape differs from the header's."""
    batch, _, height, width = header.shape
    mask = torch.zeros(batch, 1, height, width) if frame.mask is None else frame.mask
    start = _RECORD_START.pack(frame.index, int(frame.mask is not None), digest)
    body = start + _to_bytes(frame.latent, header.shape) + _to_bytes(mask, (batch, 1, height, width))
    return body + CRC.pack(zlib.crc32(body, header_crc))


def _to_bytes(tensor: Tensor, shape: tuple[int, ...]) -> bytes:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"a frame for the journal is {list(tensor.shape)}, its frames are {list(shape)}")
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4", copy=False).tobytes()


def _unpack(data: bytes, index: int, header: JournalHeader, header_crc: int) -> tuple[Frame, bytes] | None:
    """The frame and its digest, or None if the record is damaged."""
    body = data[: -CRC.size]
    found, has_mask, digest = _RECORD_START.unpack_from(body)
    if found != index or data[-CRC.size :] != CRC.pack(zlib.crc32(body, header_crc)):
        return None
    batch, _, height, width = header.shape
    numbers = torch.frombuffer(bytearray(body[_RECORD_START.size :]), dtype=torch.float32)
    latent, mask = numbers.split([math.prod(header.shape), batch * height * width])
    frame = Frame(index, latent.view(header.shape), mask.view(batch, 1, height, width) if has_mask else None)
    return frame, digest
