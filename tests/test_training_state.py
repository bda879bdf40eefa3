"""A stage's states in their folder: which are the trainer's own, and what a drive may refuse."""

import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from torch import nn

from artv_core.training.ema import MovingAverage
from artv_core.training.state import RunState, saved_steps


def made(folder: Path, inputs: int = 2, weight_decay: float = 0.01) -> RunState:
    torch.manual_seed(0)
    module = nn.Linear(inputs, 3)
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=weight_decay)
    module(torch.ones(1, inputs)).sum().backward()
    optimizer.step()
    return RunState(folder, module, optimizer, MovingAverage(module, 0.9), None)


def test_the_last_state_takes_the_place_of_the_one_before(tmp_path: Path):
    state = made(tmp_path)
    for step in (2, 3, 123_456_789):
        state.save(step)
        assert saved_steps(tmp_path) == [step]
    assert state.load() == 123_456_789


COPIES = [
    "state-00000002-good", "state-00000002.bak", "state-best", "state-", "state-2", "state-00000009 (copy)",
    "state-\u0663", "state-+0000007", "state-0000_0007", "state-000000002",
]  # fmt: skip


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_under_another_name_is_its_owners(tmp_path: Path, name: str):
    state = made(tmp_path)
    state.save(2)
    (tmp_path / name).mkdir()
    (tmp_path / name / "weights").write_text("precious")
    assert saved_steps(tmp_path) == [2]
    assert state.load() == 2
    state.save(3)
    assert saved_steps(tmp_path) == [3]
    assert (tmp_path / name / "weights").read_text() == "precious"


def test_a_file_called_like_a_state_is_none(tmp_path: Path):
    (tmp_path / "state-00000009").write_text("notes")
    state = made(tmp_path)
    state.save(2)
    assert saved_steps(tmp_path) == [2]
    assert (tmp_path / "state-00000009").read_text() == "notes"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_state_is_saved_where_the_drive_cannot_flush(tmp_path: Path, monkeypatch, number: int):
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    state = made(tmp_path)
    before = state.module.weight.detach().clone()
    state.save(2)
    nn.init.zeros_(state.module.weight)
    assert state.load() == 2
    assert torch.equal(state.module.weight, before)


def test_a_full_disk_keeps_the_state_before_and_takes_one_line(
    tmp_path: Path, file_size_limit: Callable[[int], AbstractContextManager[None]]
):
    state = made(tmp_path, inputs=10_000)
    with (
        file_size_limit(20_000),
        pytest.raises(ValueError, match=r"cannot write a state in .*; no state was saved yet$"),
    ):
        state.save(1)
    state.save(2)
    with file_size_limit(20_000), pytest.raises(ValueError, match=r"file too large; .*state-00000002 is kept$"):
        state.save(3)
    assert [path.name for path in tmp_path.iterdir()] == ["state-00000002"]
    assert state.load() == 2


def test_a_state_that_cannot_be_read_is_not_called_a_wrong_configuration(tmp_path: Path):
    state = made(tmp_path)
    state.save(2)
    (part,) = (tmp_path / "state-00000002").glob("*.distcp")
    part.rename(tmp_path / "elsewhere")
    with pytest.raises(
        ValueError, match=r"cannot read .*state-00000002: no such file or directory; the state is kept$"
    ):
        state.load()
    (tmp_path / "elsewhere").rename(part)
    assert state.load() == 2


@pytest.mark.parametrize("content", [b"", b"no pickle"])
def test_damaged_random_numbers_are_one_line_that_says_what_to_do(tmp_path: Path, content: bytes):
    state = made(tmp_path)
    state.save(2)
    file = tmp_path / "state-00000002" / "generators-0.pt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read .*generators-0.pt: .*; remove it, and the run goes on$"):
        state.load()
    file.unlink()
    assert state.load() == 2


def test_a_state_of_another_network_is_called_so(tmp_path: Path):
    made(tmp_path, inputs=3).save(2)
    with pytest.raises(ValueError, match=r"does not fit this configuration: .*remove that folder.*\)$"):
        made(tmp_path).load()


def test_a_weight_decay_that_was_changed_is_used(tmp_path: Path):
    made(tmp_path).save(2)
    state = made(tmp_path, weight_decay=0.5)
    state.load()
    assert [group["weight_decay"] for group in state.optimizer.param_groups] == [0.5]
