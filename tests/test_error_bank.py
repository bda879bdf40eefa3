"""Error recycling: what the bank keeps, where its errors go, and that runs with it go on to the bit."""

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from artv_core.synthetic.shapes import sample_clip
from artv_core.training.config import DiffusionStage, TrainConfig
from artv_core.training.diffusion import DiffusionTraining
from artv_core.training.error_bank import NONE, ErrorBank
from artv_core.training.loop import Training, run_stage
from artv_core.training.processes import make_accelerator
from artv_core.training.resident import ResidentTraining
from artv_core.training.samples import draw_sample
from artv_core.training.start import synthetic_clips
from artv_core.training.synthetic_clips import LatentClips
from tests.device_waits import DeviceWaits, resident_tensors
from tests.forked import python_with
from tests.models import smallest
from tests.tape import Tapes

pytestmark = pytest.mark.usefixtures("uncounted", "all_used")

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # bits are compared

CPU = torch.device("cpu")
STAGE = DiffusionStage(
    steps=5, batch_size=4, first_share=0.0, second_share=0.0, drop_references=0.0, drop_anchor=0.0, ema_decay=0.9,
    warmup_steps=2, sheet_every=1000, save_minutes=1e9, error_share=0.7, error_bank=6,
)  # fmt: skip


def stage(**changes) -> DiffusionTraining:
    torch.manual_seed(0)
    model, config = smallest().train(), TrainConfig(seed=5, diffusion=replace(STAGE, **changes))
    clips = LatentClips(torch.randn(6, 6, 4, 8, 8).half(), tuple(sample_clip(0, index).caption for index in range(6)))
    made = DiffusionTraining(config, model, synthetic_clips(config, clips))
    made.sheet = lambda *_: {}  # type: ignore[method-assign]
    return made


def numbered(*values: float) -> Tensor:
    """Errors [B, 1, 2, 2], each of one number."""
    return torch.tensor(values)[:, None, None, None].expand(-1, 1, 2, 2)


def kept(bank: ErrorBank) -> list[float]:
    return bank.errors[: bank.size, 0, 0, 0].tolist()


def test_the_bank_keeps_the_last_errors_of_frames_with_references():
    bank = ErrorBank(3, (1, 2, 2))
    bank.put(numbered(1, 2, 3), torch.tensor([1, 0, 1]))
    assert kept(bank) == [1, 3, 0]
    bank.put(numbered(4, 5), torch.tensor([1, 1]))
    assert kept(bank) == [5, 3, 4]
    assert int(bank.written) == 4


SHARED = """
import sys
import torch
import torch.distributed as dist
from artv_core.training.error_bank import ErrorBank
rank = int(sys.argv[2])
def numbered(*values):
    return torch.tensor(values, dtype=torch.float)[:, None, None, None].expand(-1, 1, 2, 2)
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=2)
bank = ErrorBank(4, (1, 2, 2))
bank.put(numbered(*([1, 2], [3, 4])[rank]), torch.tensor(([1.0, 0.0], [1.0, 1.0])[rank]))
bank.put(numbered(5 + rank).repeat(1, 1, 1 + rank, 1), torch.ones(1))
print(bank.errors[:4, 0, 0, 0].tolist(), int(bank.written))
dist.barrier()
dist.destroy_process_group()
"""


def test_processes_share_their_errors(tmp_path: Path):
    python = python_with("artv_core.training.error_bank")
    both = [python.start(SHARED, tmp_path / "meeting", rank) for rank in range(2)]
    said = [one.communicate(timeout=120) for one in both]
    assert [out for out, _ in said] == ["[6.0, 3.0, 4.0, 5.0] 5\n"] * 2, said


def test_a_pick_is_a_place_among_the_errors_so_far():
    bank = ErrorBank(4, (1, 2, 2))
    picks = torch.tensor([0.0, 0.49, 0.51, 0.999, NONE])
    assert not bank.picked(picks, numbered(0)).any(), "an empty bank has no errors"
    bank.put(numbered(1, 2), torch.ones(2))
    assert bank.picked(picks, numbered(0))[:, 0, 0, 0].tolist() == [1, 1, 2, 2, 0]


def test_errors_of_another_size_are_scaled():
    bank = ErrorBank(2, (1, 2, 2))
    bank.put(torch.full((1, 1, 4, 8), 3.0), torch.ones(1))
    picked = bank.picked(torch.zeros(2), torch.zeros(2, 1, 6, 4, dtype=torch.float64))
    assert picked.shape == (2, 1, 6, 4)
    assert picked.dtype == torch.float64
    assert (picked == 3).all()


def test_picks_are_drawn_last_and_as_often_as_asked():
    with_errors, without = replace(STAGE, error_share=0.3), replace(STAGE, error_share=0.0)
    ratios = torch.linspace(0.01, 100, 1000)
    drawn, plain = (
        [draw_sample(config, random.Random(index), 12, 2, ratios) for index in range(2000)]
        for config in (with_errors, without)
    )
    assert [replace(draw, error_picks=(NONE, NONE)) for draw in drawn] == plain
    for picks in zip(*(draw.error_picks for draw in drawn), strict=True):
        places = [pick for pick in picks if pick != NONE]
        assert len(places) / 2000 == pytest.approx(0.3, abs=0.04)
        assert sum(places) / len(places) == pytest.approx(0.5, abs=0.05)


def test_references_share_an_error_the_anchor_has_another_and_the_target_none():
    made, plain = stage(error_share=1.0), stage(error_share=0.0)
    bank = made.module.bank
    assert bank is not None
    bank.put(torch.randn(6, 4, 8, 8), torch.ones(6))
    batch, usual = (training.samples.batch(0, range(4)) for training in (made, plain))
    seen, true = (training.arguments(drawn, CPU) for training, drawn in ((made, batch), (plain, usual)))
    assert batch.error_picks is not None
    assert usual.error_picks is None
    assert torch.equal(seen[0], true[0]), "the target is the true frame"
    in_references, in_anchor = (bank.picked(picks, seen[0]) for picks in batch.error_picks.unbind(dim=1))
    signal = batch.signal[:, :, None, None, None]
    of_references = (seen[6] - true[6]).unflatten(1, (2, 4))
    torch.testing.assert_close(of_references, signal[:, :2] * in_references[:, None], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen[8] - true[8], signal[:, 2] * in_anchor, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen[10] - true[10], in_references, atol=1e-5, rtol=1e-4)


def test_blank_conditions_stay_blank():
    made = stage(error_share=1.0, drop_references=1.0, drop_anchor=1.0)
    assert made.module.bank is not None
    made.module.bank.put(torch.randn(6, 4, 8, 8), torch.ones(6))
    arguments = made.arguments(made.samples.batch(0, range(4)), CPU)
    assert not arguments[10].any()
    assert not made.module.bank.written.sub(6).any()
    made.module(*arguments)
    assert int(made.module.bank.written) == 6, "a frame without references has no error worth keeping"


def test_a_step_adds_its_errors_and_measuring_adds_none():
    made = stage()
    bank = made.module.bank
    assert bank is not None
    arguments = made.arguments(made.samples.batch(0, range(4)), CPU)
    with torch.no_grad():
        made.module(*arguments)
    assert int(bank.written) == 0
    _, logs = made.module(*arguments)
    assert int(bank.written) == 4
    a, s = arguments[3], arguments[4]
    eps = ((a / s).square() * bank.errors[:4].square()).mean()
    torch.testing.assert_close(eps, logs["eps"])


@pytest.mark.parametrize(("loop", "capture"), [(Training, Tapes), (ResidentTraining, Tapes)])
def test_a_run_with_a_bank_goes_on_to_the_bit(tmp_path: Path, loop: type[Training], capture):
    """Captured or not, in one go or in two: the same weights, and the same bank."""
    resident = loop is ResidentTraining

    def trained(folder: Path, steps: int, capture=None, resume: bool = False) -> dict[str, Tensor]:
        made = stage(steps=steps, resident=resident)
        return dict(run_stage(made, folder, resume, capture and capture(), loop=loop).state_dict())

    whole = trained(tmp_path / "whole", 4)
    trained(tmp_path / "parts", 2, capture)
    parts = trained(tmp_path / "parts", 4, capture, resume=True)
    assert whole.keys() == parts.keys()
    assert whole["bank.errors"].any()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_no_step_waits_for_the_device(tmp_path: Path):
    made = stage(resident=True)
    training = ResidentTraining(made, make_accelerator(made.config, tmp_path), tmp_path)
    waits = DeviceWaits(made.model, training.module, resident_tensors(training))
    with waits:
        for step in range(3):
            training.step(step, [])
    assert waits.where == []
