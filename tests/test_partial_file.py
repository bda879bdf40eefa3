"""Files are written whole or not at all, also on drives that can do less. Paths that cannot be written:
tests/test_media.py."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import Timeout

from artv_core.files import file_locks
from artv_core.files.file_locks import acquire, locked
from artv_core.files.partial_file import (
    LEFT_BEHIND,
    PartialFile,
    can_flush,
    check_writable,
    one_line,
    reason,
    replacing,
)
from artv_core.media import VideoWriter, read_video


def refusing(number: int):
    """What a drive without that ability answers."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def test_a_file_is_there_when_all_of_it_is(tmp_path):
    target = tmp_path / "a.txt"
    with replacing(target) as path:
        path.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    with pytest.raises(ValueError, match=r"cannot write .*a\.txt: no space left"), replacing(target):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == ["a.txt"]
    check_writable(target)
    assert target.read_text() == "new"


def test_what_a_killed_process_leaves_is_known_by_its_name(tmp_path):
    left = PartialFile(tmp_path / "a.txt").path
    assert LEFT_BEHIND.fullmatch(left.name)
    assert not LEFT_BEHIND.fullmatch("a.partial")


def test_reasons_are_one_line():
    assert reason(OSError(28, "No space left on device")) == "no space left on device"
    assert reason(ValueError("two\n  lines")) == "two lines"
    assert reason(ValueError()) == "ValueError"


def test_a_line_is_printable_and_no_longer_than_it_may_be():
    assert one_line("a\nb\x1b[31m") == "a b [31m"
    assert one_line("x" * 400, 10) == "xxxxxxx..."
    assert one_line("x" * 10, 10) == "x" * 10


# Drives that can do less: exFAT, network shares


def write_video(path: Path, growing: bool = False) -> None:
    with VideoWriter(path, 8, growing=growing) as video:
        for shade in (0.2, 0.5, 0.8):
            video.append(torch.full((3, 32, 32), shade))


@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
@pytest.mark.parametrize("ability", ["chmod", "fchmod", "fsync"])
def test_a_video_is_kept_where_the_drive_lacks(tmp_path, monkeypatch, ability: str, number: int, growing: bool):
    monkeypatch.setattr(os, ability, refusing(number))
    write_video(tmp_path / "a.mp4", growing)
    assert os.listdir(tmp_path) == ["a.mp4"]
    assert len(read_video(tmp_path / "a.mp4")) == 3


def test_what_a_drive_can_do_is_found_out_and_leaves_nothing(tmp_path, monkeypatch):
    assert can_flush(tmp_path)
    monkeypatch.setattr(os, "fsync", refusing(errno.EINVAL))
    assert not can_flush(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_lost_the_data_is_an_error(tmp_path, monkeypatch, number: int):
    (tmp_path / "a.txt").write_text("old")
    monkeypatch.setattr(os, "fsync", refusing(number))
    with pytest.raises(ValueError, match=r"cannot write .*a\.txt"), replacing(tmp_path / "a.txt") as path:
        path.write_text("new")
    assert os.listdir(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize("number", [errno.EXDEV, errno.ENOSYS, errno.ENOTSUP])
def test_where_a_drive_cannot_rename_a_file_is_copied(tmp_path, monkeypatch, number: int):
    (tmp_path / "a.mp4").write_bytes(b"old")
    monkeypatch.setattr(os, "replace", refusing(number))
    write_video(tmp_path / "a.mp4")
    assert os.listdir(tmp_path) == ["a.mp4"]
    assert len(read_video(tmp_path / "a.mp4")) == 3


@pytest.mark.parametrize("growing", [False, True])
def test_a_finished_file_that_cannot_get_its_name_stays_and_the_error_names_it(tmp_path, monkeypatch, growing: bool):
    real = os.replace

    def replace(source, target) -> None:
        if Path(target).name == "a.mp4":
            raise PermissionError(errno.EACCES, "The file is in use")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(ValueError, match=r"a\.mp4: the file is in use; the finished file is ") as caught:
        write_video(tmp_path / "a.mp4", growing)
    left = Path(str(caught.value).rpartition("the finished file is ")[2])
    assert os.listdir(tmp_path) == [left.name]
    assert re.fullmatch(r"a\.part\.mp4" if growing else r"finished-\w+\.mp4", left.name)
    assert len(read_video(left)) == 3


def test_a_file_that_is_in_use_for_a_moment_is_replaced(tmp_path, monkeypatch):
    real, refusals = os.replace, [PermissionError(errno.EACCES, "in use")] * 2

    def replace(source, target) -> None:
        if refusals:
            raise refusals.pop()
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with replacing(tmp_path / "a.txt") as path:
        path.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_failed_copy_keeps_the_finished_file_and_no_half_one(tmp_path, monkeypatch):
    def copy(source, target) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refusing(errno.EXDEV))
    monkeypatch.setattr(shutil, "copyfile", copy)
    with pytest.raises(ValueError, match="no space left on device; the finished file is"):
        write_video(tmp_path / "a.mp4")
    (left,) = tmp_path.iterdir()
    assert len(read_video(left)) == 3


def test_a_name_that_the_drive_does_not_take_is_found_at_once(tmp_path, monkeypatch):
    real = os.lstat

    def lstat(path, **more):
        return refusing(errno.EINVAL)() if "?" in str(path) else real(path, **more)

    monkeypatch.setattr(os, "lstat", lstat)
    with pytest.raises(ValueError, match="invalid argument"):
        check_writable(tmp_path / "why?.mp4")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", sorted({errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}))
def test_where_a_drive_has_no_locks_nobody_waits(tmp_path, monkeypatch, number: int):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", refusing(number))
    with locked(tmp_path / "one"), locked(tmp_path / "two"):
        pass


def test_a_version_of_filelock_that_takes_every_fault_for_another_process_is_seen_through(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "lock").touch()

    class Taken(file_locks.FileLock):
        def acquire(self, *_: object, **__: object) -> None:
            raise Timeout(str(tmp_path / "lock"))

    monkeypatch.setattr(file_locks, "FileLock", Taken)
    with pytest.raises(Timeout):
        acquire(tmp_path / "lock", timeout=0)
    monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOLCK))
    acquire(tmp_path / "lock", timeout=0).release()


def test_a_lock_keeps_other_processes_out(tmp_path):
    code = "import sys; from artv_core.files.file_locks import acquire; acquire(sys.argv[1], timeout=0)"
    with locked(tmp_path / "lock"):
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "lock"], capture_output=True, text=True)
    assert "Timeout" in done.stderr
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "lock"], check=False).returncode == 0
