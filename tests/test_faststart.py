"""Finished MP4 and MOV files have their index in front and play as before."""

import struct
from pathlib import Path

import pytest
import torch

from artv_core.media import VideoWriter, faststart, read_video
from artv_core.media.faststart import move_index_to_front


def write(path: Path, frames: int = 12, growing: bool = False) -> None:
    video = torch.rand(frames, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    with VideoWriter(path, 8, growing=growing, comment="kept", metadata={"own": "too"}) as writer:
        for frame in video:
            writer.append(frame)


def atoms(path: Path) -> list[bytes]:
    data, at, names = path.read_bytes(), 0, []
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        names.append(name)
        at += size
    return names


@pytest.mark.parametrize("ending", ["mp4", "mov"])
@pytest.mark.parametrize("block", [2**22, 100])
def test_the_index_lies_in_front_and_nothing_else_changes(tmp_path, monkeypatch, ending: str, block: int):
    path, plain = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"
    monkeypatch.setattr("artv_core.media.writing.move_index_to_front", lambda _: None)
    write(plain)
    monkeypatch.undo()
    monkeypatch.setattr(faststart, "_BLOCK", block)
    write(path)
    assert atoms(plain)[-1] == b"moov"
    assert atoms(path)[:2] == [b"ftyp", b"moov"]
    assert sorted(atoms(path)) == sorted(atoms(plain))
    assert path.stat().st_size == plain.stat().st_size
    assert torch.equal(read_video(path), read_video(plain))
    assert b"kept" in path.read_bytes()
    assert not move_index_to_front(path), "it is there already"


def test_growing_files_stay_as_they_are(tmp_path):
    write(tmp_path / "a.mp4", growing=True)
    before = (tmp_path / "a.mp4").read_bytes()
    assert not move_index_to_front(tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == before
    assert len(read_video(tmp_path / "a.mp4")) == 12


@pytest.mark.parametrize("data", [b"", b"junk", b"\0\0\0\x08ftyp\0\0\0\x04mdat", b"\0\0\0\x08ftyp\0\0\0\x08moov"])
def test_what_is_no_such_file_stays_as_it_is(tmp_path, data: bytes):
    (tmp_path / "a.mp4").write_bytes(data)
    assert not move_index_to_front(tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == data


def test_places_beyond_four_gigabytes_are_left_alone():
    index = bytearray(struct.pack(">I4sI4sIII", 28, b"stbl", 20, b"stco", 0, 1, 2**32 - 5))
    before = bytes(index)
    assert not faststart._move_offsets(index, 0, len(index), 100)
    assert index == before
