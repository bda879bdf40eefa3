"""A stage's states in their folder: which are the trainer's own, and what a drive may refuse."""

import errno
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from artv_core.training.ema import MovingAverage
from artv_core.training.state import RunState, saved_steps


def made(folder: Path) -> RunState:
    torch.manual_seed(0)
    module = nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
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
