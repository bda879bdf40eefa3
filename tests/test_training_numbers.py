"""Training stops where it loses its numbers, says in which step, and keeps the last good state."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from artv_core.data.clips import BrokenClip
from artv_core.training.config import LoopConfig
from artv_core.training.loop import Stage, Training, run_stage
from artv_core.training.numbers import FirstFaults, all_finite
from artv_core.training.processes import make_accelerator
from artv_core.training.state import RunState, saved_steps
from tests.device_waits import DeviceWaits

pytestmark = pytest.mark.usefixtures("uncounted")

CPU = torch.device("cpu")
LOSS, GRADIENTS = float("nan"), -1.0
"""Data that spoil a loss, or the gradients alone."""


class Learner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        root = ((self.layer.weight * 0).sum() + x.min() + 1).sqrt()  # at 0, a slope that is no number
        return self.layer(x).square().mean() + root, {}


class Data:
    """Ones, but for the steps that are spoiled."""

    def __init__(self, spoiled: dict[int, float]) -> None:
        self.spoiled = spoiled

    def batch(self, step: int, indices: range) -> tuple[Tensor]:
        return (torch.full((len(indices), 2), self.spoiled.get(step, 1.0)),)


def learning(spoiled: dict[int, float], **changes) -> Stage:
    torch.manual_seed(0)
    stage, config = Stage(), LoopConfig(steps=12, batch_size=4, save_minutes=1e9, sheet_every=1000, log_every=100)
    stage.name, stage.config = "learning", replace(config, **changes)
    stage.module, stage.samples = Learner(), Data(spoiled)
    return stage


class Counted:
    """Each sample has its own number."""

    def batch(self, step: int, indices: range) -> tuple[Tensor]:
        return (torch.tensor([[float(index), 0.0] for index in indices]),)


def test_each_sample_weighs_the_same_in_a_smaller_micro_batch(tmp_path: Path):
    found = []
    for micro_batch in (0, 3):
        stage = learning({}, micro_batch=micro_batch, gradient_clip=0.0)
        stage.samples = Counted()
        training = Training(stage, make_accelerator(stage.config, tmp_path), tmp_path)
        _, batch, _ = next(training.batches(0))
        training.step(0, batch)
        found.append(torch.cat([stage.module.layer.weight.grad[0], training.passes.sums.totals["loss"][None]]))
    assert torch.allclose(*found)


class Worker:
    """Says whether Ctrl+C is ignored where it makes batches; some steps are broken."""

    def batch(self, step: int, indices: range) -> tuple[Tensor]:
        if step == 1:
            raise BrokenClip("dog.mp4: is broken")
        return (torch.tensor(signal.getsignal(signal.SIGINT) is signal.SIG_IGN),)


def test_a_worker_leaves_stopping_and_errors_to_the_main_process(tmp_path: Path):
    stage = learning({}, workers=1)
    stage.samples = Worker()
    batches = Training(stage, make_accelerator(stage.config, tmp_path), tmp_path).batches(0)
    _, ((ignored,),), _ = next(batches)
    assert bool(ignored)
    with pytest.raises(BrokenClip, match=r"^dog\.mp4: is broken$"):
        next(batches)


@pytest.mark.parametrize(("value", "what"), [(LOSS, "loss of step 6 is"), (GRADIENTS, "gradients of step 6 are")])
@pytest.mark.parametrize("micro_batch", [0, 2])
def test_training_stops_at_the_first_step_without_numbers(tmp_path: Path, value: float, what: str, micro_batch: int):
    """Also far from the next line of the log."""
    with pytest.raises(ValueError, match=f"learning stopped: the {what} not .*; no state was saved yet") as caught:
        run_stage(learning({5: value, 7: value}, micro_batch=micro_batch), tmp_path, resume=False)
    assert "\n" not in str(caught.value)
    assert saved_steps(tmp_path / "learning") == []


@pytest.mark.parametrize("value", [LOSS, float("inf"), GRADIENTS])
def test_the_last_good_state_stays_and_can_be_gone_on_from(tmp_path: Path, value: float):
    with pytest.raises(ValueError, match=r"step 6 .*state-00000005.*--resume"):
        run_stage(learning({5: value}, save_minutes=0.0), tmp_path, resume=False)
    assert saved_steps(tmp_path / "learning") == [5]
    run_stage(learning({}, save_minutes=0.0), tmp_path, resume=True)
    assert saved_steps(tmp_path / "learning") == [12]


@pytest.mark.parametrize("where", ["weight", "average", "optimizer"])
def test_nothing_without_numbers_is_saved_or_gone_on_from(tmp_path: Path, where: str):
    stage = learning({})
    training = Training(stage, make_accelerator(stage.config, tmp_path), tmp_path)
    training.step(0, [(torch.ones(4, 2),)])
    training.check(1)
    state: RunState = training.state
    spoiled = {
        "weight": lambda: stage.module.layer.weight,
        "average": lambda: next(iter(state.average.averages.values())),
        "optimizer": lambda: state.optimizer.state[stage.module.layer.weight]["exp_avg"],
    }[where]()
    with torch.no_grad():
        spoiled[0, 1] = float("inf")
    with pytest.raises(ValueError, match="weights are no longer numbers after step 1"):
        training.check(1)
    state.save(1)  # as earlier versions did
    with pytest.raises(ValueError, match=r"state-00000001 contains weights that are not numbers; remove"):
        training.resume()


def test_the_first_fault_is_noted_without_a_wait_and_kept_through_later_ones():
    faults, x = FirstFaults(["loss", "gradients"], CPU), torch.zeros(2)
    with DeviceWaits(x) as waits:
        for step, pair in enumerate([(0, 0), (0, 2), (0, float("nan")), (float("-inf"), 1), (0, 0)]):
            x.copy_(torch.tensor(pair, dtype=torch.float32).pin_memory(), non_blocking=True)
            faults.note(step, {"loss": x[0], "gradients": x[1]})
    assert waits.where == []
    assert faults.any_seen()
    assert faults.first() == ("gradients", 2)


def test_without_faults_there_is_none():
    faults = FirstFaults(["loss"], CPU)
    assert faults.first() is None
    faults.note(0, {"loss": torch.tensor(3e38)})
    assert not faults.any_seen()
    assert faults.first() is None


def test_one_number_among_many_is_found():
    many = [torch.zeros(300), torch.zeros(0), torch.arange(3), torch.zeros(7, 9, dtype=torch.bfloat16)]
    assert all_finite(many)
    for index, value in ((0, float("nan")), (3, float("inf"))):
        spoiled = [tensor.clone() for tensor in many]
        spoiled[index].view(-1)[-1] = value
        assert not all_finite(spoiled)
