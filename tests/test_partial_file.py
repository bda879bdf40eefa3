"""Files are written whole or not at all. Paths that cannot be written: tests/test_media.py."""

import os

import pytest

from artv_core.partial_file import LEFT_BEHIND, PartialFile, check_writable, one_line, reason, replacing


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
