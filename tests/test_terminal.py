"""Names that a terminal cannot print end no command."""

import importlib.util
import io
import os
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from artv_core.cli import main
from artv_core.files.terminal import escape_unprintable, say

ROOT = Path(__file__).parent.parent
NAMES = [("cp1252", "плохой"), ("ascii", "café"), ("utf-8", os.fsdecode(b"caf\xe9"))]


def terminal(monkeypatch, name: str, encoding: str) -> io.TextIOWrapper:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)
    monkeypatch.setattr(sys, name, stream)
    return stream


def shown(stream: io.TextIOWrapper) -> str:
    return stream.buffer.getvalue().decode(stream.encoding)


def escaped(name: str, encoding: str) -> str:
    return name.encode(encoding, "backslashreplace").decode(encoding)


@pytest.mark.parametrize(("encoding", "name"), NAMES)
def test_lines_and_bars_are_escaped(monkeypatch, encoding: str, name: str):
    out, error = terminal(monkeypatch, "stdout", encoding), terminal(monkeypatch, "stderr", encoding)
    escape_unprintable()
    print(name)
    say(name)
    list(tqdm([1], desc=name, file=sys.stderr))
    assert shown(out).split() == [escaped(name, encoding)]
    assert shown(error).count(escaped(name, encoding)) >= 2


@pytest.mark.parametrize(("encoding", "name"), NAMES)
def test_a_video_of_such_a_name_is_made_and_its_path_printed(tmp_path, monkeypatch, encoding: str, name: str):
    out = terminal(monkeypatch, "stdout", encoding)
    path = tmp_path / f"{name}.mp4"
    drift = ["--drift", str(tmp_path / f"{name}.csv"), "--mask-video", str(tmp_path / f"{name}-mask.mp4")]
    words = ["generate", "a large red circle", "--checkpoint", "tiny", "--frames", "2", "--steps", "1", "-o", str(path)]
    assert main([*words, *drift, "--width", "32", "--height", "32"]) == 0
    assert path.is_file()
    assert shown(out).splitlines()[0] == escaped(str(path), encoding)


def test_the_trainers_lines_are_escaped_too(monkeypatch):
    spec = importlib.util.spec_from_file_location("train", ROOT / "train.py")
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    out = terminal(monkeypatch, "stdout", "cp1252")
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", "none.toml"])
    assert train.main() == 2
    print("плохой", file=out)
    assert shown(out).strip() == escaped("плохой", "cp1252")


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_other_streams_stay_as_they_are(monkeypatch, stream):
    monkeypatch.setattr(sys, "stdout", stream)
    escape_unprintable()
    assert sys.stdout is stream
