"""Journals: what is written comes back to the bit; a crash costs what was not whole, and nothing else."""

import errno
import json
import os
import signal
import struct
import textwrap
import zlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from artv_core import cli
from artv_core.method.frames import Frame
from artv_core.run import journal as journal_module
from artv_core.run import journal_folder
from artv_core.run.journal import Journal, journaled, open_journal
from artv_core.run.journal_file import MAX_HEADER, SUFFIX, JournalReader
from artv_core.run.journal_folder import lock_path, newest_first, sidecar_path
from artv_core.run.journal_list import journal_table, list_journals, remove_journal
from tests.forked import COMMANDS, python_with

SHAPE = (2, 4, 3, 5)


class Inputs:
    """Stands for a run: `common`, and a text for each frame."""

    def __init__(self, common: str = "run", frames: str = "a" * 100) -> None:
        self.common, self.frames = common, frames

    def frame(self, index: int) -> bytes:
        return self.frames[index].encode()


def frame(index: int) -> Frame:
    generator = torch.Generator().manual_seed(index)
    mask = None if index == 0 else torch.rand(2, 1, 3, 5, generator=generator)
    return Frame(index, torch.randn(SHAPE, generator=generator), mask)


def opened(folder: Path, inputs: Inputs | None = None, **options) -> Journal:
    return open_journal(folder, inputs or Inputs(), SHAPE, {"checkpoint": "test", "seed": 7}, **options)


def write(folder: Path, count: int, inputs: Inputs | None = None, **options) -> Path:
    with opened(folder, inputs, **options) as journal:
        for index in range(journal.count, count):
            journal.append(frame(index))
        return journal.path


def found(folder: Path, inputs: Inputs | None = None, **options) -> int:
    with opened(folder, inputs, **options) as journal:
        return journal.found


def assert_equal(got: Frame, expected: Frame) -> None:
    assert got.index == expected.index
    assert torch.equal(got.latent, expected.latent)
    assert (got.mask is None) == (expected.mask is None)
    assert got.mask is None or torch.equal(got.mask, expected.mask)


def test_frames_come_back_to_the_bit(tmp_path):
    path = write(tmp_path, 4)
    with JournalReader(path) as reader:
        frames = list(reader.frames())
        assert reader.header.shape == SHAPE
        assert reader.header.about["seed"] == 7
    assert len(frames) == 4
    for index, got in enumerate(frames):
        assert_equal(got, frame(index))


def test_numbers_of_every_kind_come_back(tmp_path):
    latent = torch.zeros(SHAPE)
    latent.view(-1)[:5] = torch.tensor([float("inf"), float("-inf"), float("nan"), -0.0, 1e-45])
    with opened(tmp_path) as journal:
        journal.append(Frame(0, latent, None))
    with JournalReader(journal.path) as reader:
        (got,) = reader.frames()
    assert got.latent.numpy().tobytes() == latent.numpy().tobytes()


def test_tiny_takes_less_than_4_kb_a_frame(tmp_path):
    with open_journal(tmp_path, Inputs(), (1, 4, 8, 8), {}) as journal:
        journal.append(Frame(0, torch.zeros(1, 4, 8, 8), None))
        before = journal.path.stat().st_size
        journal.append(Frame(1, torch.zeros(1, 4, 8, 8), None))
        assert journal.path.stat().st_size - before < 4096


def test_a_longer_run_goes_on_in_the_same_file(tmp_path):
    first = write(tmp_path, 3)
    assert found(tmp_path) == 3
    assert write(tmp_path, 5) == first
    assert found(tmp_path) == 5


def test_a_shorter_run_takes_what_it_needs(tmp_path):
    write(tmp_path, 5)
    with opened(tmp_path, num_frames=2) as journal:
        assert [got.index for got in journal.frames()] == [0, 1]
    assert found(tmp_path) == 5


def test_other_runs_have_journals_of_their_own(tmp_path):
    paths = {write(tmp_path, 2), write(tmp_path, 2, Inputs("another")), write(tmp_path, 2, Inputs(frames="b" * 9))}
    assert len(paths) == 3
    assert found(tmp_path) == 2


def test_a_run_that_differs_from_some_frame_on_takes_the_frames_before(tmp_path):
    first = write(tmp_path, 6)
    second = write(tmp_path, 6, Inputs(frames="aaabbb"))
    assert second != first
    with JournalReader(second) as reader:
        for index, got in enumerate(reader.frames(limit=3)):
            assert_equal(got, frame(index))
    assert found(tmp_path) == 6
    assert found(tmp_path, Inputs(frames="aaabbb")) == 6


def test_a_frame_is_not_taken_when_one_before_it_differs(tmp_path):
    write(tmp_path, 6)
    assert found(tmp_path, Inputs(frames="baaaaa")) == 0


def test_start_over_leaves_what_is_there(tmp_path):
    first = write(tmp_path, 3)
    assert found(tmp_path, start_over=True) == 0
    assert first.exists()
    assert found(tmp_path) == 3


@pytest.mark.parametrize("cut", [1, 7, 100, 200])
def test_torn_last_record_is_dropped_and_the_rest_kept(tmp_path, cut):
    path = write(tmp_path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert found(tmp_path) == 2
    assert write(tmp_path, 3) == path
    assert path.read_bytes() == whole


@pytest.mark.parametrize("at", range(0, 320, 13))
def test_any_changed_byte_of_a_record_is_noticed(tmp_path, at):
    path = write(tmp_path, 3)
    data = bytearray(path.read_bytes())
    with JournalReader(path) as reader:
        data[reader.end_of(1) + at % reader.header.record_bytes] ^= 0x10
    path.write_bytes(data)
    with JournalReader(path) as reader:
        assert reader.count_sound() == 1
    assert write(tmp_path, 3) != path
    assert path.read_bytes() == data
    assert found(tmp_path) == 3


def test_records_of_another_journal_do_not_pass(tmp_path):
    """A record's checksum begins with its header's."""
    one, other = write(tmp_path / "one", 2), write(tmp_path / "other", 2, Inputs("another"))
    with JournalReader(one) as reader:
        start, size = reader.end_of(0), 2 * reader.header.record_bytes
    one.write_bytes(one.read_bytes()[:start] + other.read_bytes()[-size:])
    with JournalReader(one) as reader:
        assert reader.count_sound() == 0


def test_a_journal_in_use_is_copied_and_not_shared(tmp_path):
    first = write(tmp_path, 3)
    with opened(tmp_path) as holder:
        assert holder.path == first
        with opened(tmp_path) as other:
            assert other.path != first
            assert other.found == 3
            other.append(frame(3))
            holder.append(frame(3))
    with JournalReader(first) as one, JournalReader(other.path) as two:
        assert one.count_sound() == two.count_sound() == 4


@pytest.mark.parametrize("protected", ["journal", "lock file"])
def test_a_journal_that_may_not_be_written_is_copied(tmp_path, monkeypatch, protected):
    """It is read-only, or another user's. Refused here by hand, because the tests may run as root."""
    first = write(tmp_path, 3)
    refuse_to_write(monkeypatch, first if protected == "journal" else lock_path(first))
    before = first.read_bytes()
    with opened(tmp_path) as journal:
        assert journal.path != first
        assert journal.found == 3
        journal.append(frame(3))
    assert found(tmp_path) == 4
    assert first.read_bytes() == before


def refuse_to_write(monkeypatch: pytest.MonkeyPatch, protected: Path) -> None:
    open_path, acquire = Path.open, journal_folder.acquire

    def open_if_allowed(path: Path, mode: str = "r", *args, **options):
        if path == protected and mode != "rb":
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_path(path, mode, *args, **options)

    def acquire_if_allowed(path: Path, timeout: float = -1):
        if path == protected:
            raise PermissionError(errno.EACCES, "Permission denied")
        return acquire(path, timeout)

    monkeypatch.setattr(Path, "open", open_if_allowed)
    monkeypatch.setattr(journal_folder, "acquire", acquire_if_allowed)


@pytest.mark.parametrize(("before", "common_frames"), [(5, 8), (5, 5), (0, 0)])
def test_frames_that_another_run_adds_before_the_journal_is_locked_are_kept(
    tmp_path, monkeypatch, before, common_frames
):
    """All of them belong to this run, too, or only those that were there before."""
    first = write(tmp_path, before)
    whole = write(tmp_path / "other", 8).read_bytes()
    lock = journal_module.lock_journal

    def lock_later(path: Path):
        if path == first:
            first.write_bytes(whole)
        return lock(path)

    monkeypatch.setattr(journal_module, "lock_journal", lock_later)
    with opened(tmp_path, Inputs(frames="a" * common_frames + "b" * 20)) as journal:
        assert (journal.path == first) == (common_frames == 8)
        assert journal.found == common_frames
        journal.append(frame(common_frames))
    with JournalReader(first) as reader:
        assert reader.count_sound() == (9 if common_frames == 8 else 8)
    assert lock(first) is not None, "it is free again"


def test_a_journal_that_is_removed_before_it_is_locked_is_named(tmp_path, monkeypatch):
    first = write(tmp_path, 5)
    lock = journal_module.lock_journal

    def lock_later(path: Path):
        first.unlink(missing_ok=True)
        return lock(path)

    monkeypatch.setattr(journal_module, "lock_journal", lock_later)
    with pytest.raises(ValueError, match="cannot read journal"):
        opened(tmp_path)
    assert lock(first) is not None, "it is free again"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_on_a_drive_without_locks_a_run_goes_on_in_its_journal(tmp_path, monkeypatch, number):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    first = write(tmp_path, 3)
    assert write(tmp_path, 5) == first
    assert [info.num_frames for info in list_journals(tmp_path)] == [5]
    remove_journal(first)
    assert not first.exists()


def test_on_a_drive_that_cannot_flush_frames_are_kept(tmp_path, monkeypatch):
    def refuse(_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr("artv_core.run.journal.FLUSH_SECONDS", 0.0)
    write(tmp_path, 3)
    assert found(tmp_path) == 3


def test_where_no_lock_can_be_made_the_error_says_how_to_do_without(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("artv_core.run.journal_folder.acquire", refuse)
    with pytest.raises(ValueError, match=r"read-only file system; .*do without a journal"):
        opened(tmp_path)


def test_frames_come_in_order(tmp_path):
    with opened(tmp_path) as journal, pytest.raises(ValueError, match="next frame is 0, got frame 1"):
        journal.append(frame(1))


def test_a_frame_of_another_size_is_refused(tmp_path):
    with opened(tmp_path) as journal, pytest.raises(ValueError, match=r"\[1, 4, 3, 5\]"):
        journal.append(Frame(0, torch.zeros(1, 4, 3, 5), None))
    assert found(tmp_path) == 0


# The wrapper


def making(num_frames: int, made: list[int]):
    def make(before):
        count = 0
        for index, latent in enumerate(before):
            assert torch.equal(latent, frame(index).latent)
            count += 1
        for index in range(count, num_frames):
            made.append(index)
            yield frame(index)

    return make


def test_frames_that_are_there_are_not_made(tmp_path):
    made: list[int] = []
    with opened(tmp_path) as journal:
        assert [got.index for got in journaled(journal, (), making(3, made))] == [0, 1, 2]
    with opened(tmp_path) as journal:
        frames = list(journaled(journal, (), making(5, made)))
    assert made == [0, 1, 2, 3, 4]
    for index, got in enumerate(frames):
        assert_equal(got, frame(index))


def test_a_frame_is_kept_before_it_is_handed_on(tmp_path):
    with opened(tmp_path) as journal:
        for got in journaled(journal, (), making(3, [])):
            with JournalReader(journal.path) as reader:
                assert reader.count_sound() == got.index + 1


def test_given_frames_are_kept_too(tmp_path):
    given: list[Tensor] = [frame(0).latent, frame(1).latent]
    made: list[int] = []
    for _ in range(2):
        with opened(tmp_path) as journal:
            frames = list(journaled(journal, given, making(4, made)))
        assert [got.index for got in frames] == [0, 1, 2, 3]
        assert frames[1].mask is None
    assert made == [2, 3]


# Faults


def test_full_disk_is_one_line_and_costs_nothing_but_the_frame(tmp_path, file_size_limit):
    path = write(tmp_path, 3)
    size = path.stat().st_size
    with opened(tmp_path) as journal, file_size_limit(size + 100):
        with pytest.raises(ValueError, match=r"cannot write journal .*; its 3 frames are kept") as error:
            journal.append(frame(3))
        assert "\n" not in str(error.value)
    assert path.stat().st_size == size
    assert found(tmp_path) == 3
    write(tmp_path, 4)
    assert found(tmp_path) == 4


def test_no_room_for_a_new_journal_is_one_line(tmp_path, file_size_limit):
    with file_size_limit(10), pytest.raises(ValueError, match="cannot keep a journal in") as error:
        opened(tmp_path)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot keep a journal in"):
        opened(tmp_path / "file" / "folder")


KILLED_WHILE_WRITING = """
    import os, signal, sys
    from tests.test_journal import frame, opened
    from pathlib import Path

    folder, at = Path(sys.argv[1]), int(sys.argv[2])
    with opened(folder) as book:
        for index in range(2):
            book.append(frame(index))
        file = book._file
        class Torn:
            def write(self, data):
                file.write(data[:at])
                os.kill(os.getpid(), signal.SIGKILL)
        book._file = Torn()
        book.append(frame(2))
"""


@pytest.mark.parametrize("at", [0, 1, 30, 300])
def test_a_process_that_dies_while_it_writes_loses_that_frame_only(tmp_path, at):
    ran = python_with(*COMMANDS).run(textwrap.dedent(KILLED_WHILE_WRITING), tmp_path, at)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    with opened(tmp_path) as journal:
        assert journal.found == 2
        journal.append(frame(2))
    with JournalReader(journal.path) as reader:
        assert reader.count_sound() == 3


def test_what_a_process_left_that_died_while_it_made_a_journal_is_swept_up(tmp_path):
    (tmp_path / f".20260101-000000-00000000{SUFFIX}.partial").write_bytes(b"half a copy")
    write(tmp_path, 1)
    assert not list(tmp_path.glob("*.partial"))
    assert not list(tmp_path.glob(".*.partial"))


def test_what_may_not_be_swept_up_stops_no_run(tmp_path, monkeypatch):
    left = tmp_path / f"20260101-000000-00000000{SUFFIX}"
    (tmp_path / f".{left.name}.partial").touch()
    refuse_to_write(monkeypatch, lock_path(left))
    assert write(tmp_path, 2).exists()
    assert (tmp_path / f".{left.name}.partial").exists()


# Hostile files


def header_bytes(text: bytes) -> bytes:
    start = b"ARTVJRN1" + struct.pack("<I", len(text)) + text
    return start + struct.pack("<I", zlib.crc32(start))


def fields(**changes) -> bytes:
    return json.dumps({"run": "run", "shape": list(SHAPE), "about": {}} | changes).encode()


HOSTILE = {
    "empty": b"",
    "another kind": b"PK\x03\x04" + bytes(100),
    "a magic alone": b"ARTVJRN1",
    "claims 4 GB": b"ARTVJRN1" + struct.pack("<I", 2**32 - 1) + b"{}",
    "truncated": header_bytes(fields())[:-3],
    "deep JSON": header_bytes(b"[" * (MAX_HEADER // 2) + b"]" * (MAX_HEADER // 2)),
    "no JSON": header_bytes(b"\xff\xfe"),
    "no mapping": header_bytes(b"[]"),
    "huge shape": header_bytes(fields(shape=[2**27, 2**27, 2**27, 2**27])),
    "large records": header_bytes(fields(shape=[1, 4, 2**13, 2**13])),
    "negative shape": header_bytes(fields(shape=[-1, 4, 3, 5])),
    "no shape": header_bytes(fields(shape=None)),
    "booleans": header_bytes(fields(shape=[True, 4, 3, 5])),
    "fractions": header_bytes(fields(shape=[1.0, 4, 3, 5])),
    "run is a number": header_bytes(fields(run=1)),
    "about is a list": header_bytes(fields(about=[])),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_one_line_and_in_nobodys_way(tmp_path, name):
    path = tmp_path / f"hostile{SUFFIX}"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(ValueError, match="hostile") as error:
        JournalReader(path)
    assert "\n" not in str(error.value)
    assert list_journals(tmp_path) == []
    assert write(tmp_path, 2) != path
    assert path.read_bytes() == HOSTILE[name]


def test_a_sparse_file_of_a_terabyte_costs_nothing(tmp_path):
    path = write(tmp_path, 1)
    with path.open("r+b") as file:
        file.truncate(2**40)
    with JournalReader(path) as reader:
        assert reader.count_sound() == 1
    assert found(tmp_path) == 1


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / f"pipe{SUFFIX}")
    with pytest.raises(ValueError, match="not an ordinary file"):
        JournalReader(tmp_path / f"pipe{SUFFIX}")
    assert list_journals(tmp_path) == []


# Keeping house


def test_journals_are_listed_with_their_size(tmp_path):
    path = write(tmp_path, 3)
    write(tmp_path, 2, Inputs("another"))
    (tmp_path / "notes.txt").write_text("no journal")
    journals = list_journals(tmp_path)
    assert sorted(journal.num_frames for journal in journals) == [2, 3]
    table = journal_table(journals)
    assert f"{path.name}  3 frames  2.0 kB" in table
    assert "checkpoint test" in table
    assert journal_table([]) == "no journals"
    assert list_journals(tmp_path / "nowhere") == []


def test_a_journal_that_vanishes_while_a_folder_is_read_hides_no_other(tmp_path, monkeypatch):
    path, gone = write(tmp_path, 3), tmp_path / f"gone{SUFFIX}"
    gone.touch()
    is_file = Path.is_file

    def is_file_and_vanishes(self: Path) -> bool:
        there = is_file(self)
        if self == gone:
            gone.unlink(missing_ok=True)
        return there

    monkeypatch.setattr(Path, "is_file", is_file_and_vanishes)
    assert newest_first(tmp_path) == [path]
    assert not gone.exists()


def test_a_hostile_name_in_a_header_stays_on_its_line(tmp_path):
    with open_journal(tmp_path, Inputs(), SHAPE, {"checkpoint": "two\nlines\x1b[31m" + "x" * 500}):
        pass
    assert len(journal_table(list_journals(tmp_path)).splitlines()) == 2


def test_journals_are_removed_on_request_only(tmp_path):
    path, other = write(tmp_path, 3), write(tmp_path, 2, Inputs("another"))
    for journal in (path, other):
        sidecar_path(journal).write_text("{}")
    remove_journal(path)
    assert sorted(tmp_path.glob("[!.]*")) == sorted([other, sidecar_path(other)])
    assert [p for p in tmp_path.iterdir() if path.stem in p.name] == []


def test_a_journal_in_use_is_not_removed(tmp_path):
    with opened(tmp_path) as journal, pytest.raises(ValueError, match="is in use"):
        remove_journal(journal.path)
    assert journal.path.exists()


def test_the_command_goes_on_after_a_journal_in_use(tmp_path, capsys):
    one, other = write(tmp_path, 1), write(tmp_path, 1, Inputs("another"))
    with opened(tmp_path, Inputs("in use")) as journal:
        assert cli.main(["journals", str(tmp_path), "--remove", one.name, journal.path.name, other.name]) == 2
        said = capsys.readouterr()
        assert said.err.startswith(f"artv: {journal.path.name} was not removed: ")
        assert len(said.err.splitlines()) == 1
        assert "is in use" in said.err
        assert said.out.startswith("1 journal,")
        assert [journal.path for journal in list_journals(tmp_path)] == [journal.path]


def test_only_journals_are_removed(tmp_path):
    (tmp_path / f"precious{SUFFIX}").write_text("not a journal")
    with pytest.raises(ValueError, match="is not an ARTV journal"):
        remove_journal(tmp_path / f"precious{SUFFIX}")
    assert (tmp_path / f"precious{SUFFIX}").exists()
