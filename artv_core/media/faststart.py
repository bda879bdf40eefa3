"""Moving the index of MP4 and MOV files to the front, so that a web player can start before it has the whole file.

FFmpeg writes the index (`moov`) last. Here it is moved within the file. That needs no extra disk space, and memory only
for the index. Not in the paper.
"""

import struct
from pathlib import Path
from typing import BinaryIO

_BLOCK = 2**22
_LARGEST_INDEX = 2**28
_OUTER = (b"trak", b"mdia", b"minf", b"stbl")


def move_index_to_front(path: Path) -> bool:
    """Move the index of a finished file in front of its frames. Returns whether that was done. The file stays unchanged
    if its layout is different, if the new offsets do not fit into its index, or if it cannot be opened for writing
    (another program may use it). Raises OSError if the drive fails meanwhile."""
    try:
        opened = path.open("r+b")
    except OSError:
        return False
    with opened as file:
        atoms = _top_atoms(file)
        names = [name for name, _, _ in atoms]
        if names[:1] != [b"ftyp"] or names[-1] != b"moov" or names.count(b"moov") != 1 or b"mdat" not in names:
            return False
        _, start, size = atoms[-1]
        if size > _LARGEST_INDEX:
            return False
        file.seek(start)
        index = bytearray(file.read(size))
        if len(index) != size or not _move_offsets(index, 8, size, size):
            return False
        front = atoms[1][1]
        _shift(file, front, start, size)
        file.seek(front)
        file.write(index)
    return True


def _top_atoms(file: BinaryIO) -> list[tuple[bytes, int, int]]:
    """(name, start, size) of each top-level atom. A single atom without a name if the atoms do not fill the file."""
    end, at, atoms = file.seek(0, 2), 0, []
    while at < end:
        file.seek(at)
        header = file.read(16)
        if len(header) < 8:
            return [(b"", 0, 0)]
        size, name = struct.unpack_from(">I4s", header)
        if size == 1 and len(header) == 16:
            (size,) = struct.unpack_from(">Q", header, 8)
        if size < 8 or at + size > end:
            return [(b"", 0, 0)]
        atoms.append((name, at, size))
        at += size
    return atoms or [(b"", 0, 0)]


def _move_offsets(index: bytearray, start: int, end: int, by: int) -> bool:
    """Add `by` to all frame offsets in the bytes `start` to `end` of the index. False if they cannot be changed."""
    at = start
    while at + 8 <= end:
        size, name = struct.unpack_from(">I4s", index, at)
        if size < 8 or at + size > end:
            return False
        if name in _OUTER and not _move_offsets(index, at + 8, at + size, by):
            return False
        if name in (b"stco", b"co64"):
            code = "I" if name == b"stco" else "Q"
            (count,) = struct.unpack_from(">I", index, at + 12)
            form = struct.Struct(f">{count}{code}")
            if form.size + 16 > size:
                return False
            places = [place + by for place in form.unpack_from(index, at + 16)]
            if places and max(places) >= 2 ** (32 if code == "I" else 64):
                return False
            form.pack_into(index, at + 16, *places)
        at += size
    return True


def _shift(file: BinaryIO, start: int, end: int, by: int) -> None:
    """Move the bytes from `start` to `end` towards the end of the file by `by` bytes. Copies the last ones first."""
    while end > start:
        size = min(_BLOCK, end - start)
        file.seek(end - size)
        block = file.read(size)
        file.seek(end - size + by)
        file.write(block)
        end -= size
