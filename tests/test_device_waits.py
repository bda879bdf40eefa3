"""The counter of waits counts what makes a GPU wait and nothing else."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.device_waits import DeviceWaits

DEVICE = torch.device("cpu")  # an object, so the counter takes it for the device


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x[0].item(),
        lambda x: float(x[0]),
        lambda x: int(x[0]),
        lambda x: bool(x[0] > 0),
        lambda x: [0, 1, 2][x[0].long()],
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.to("cpu", torch.float64),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: torch.masked_select(x, x > 0),
        lambda x: x.unique(),
        lambda x: torch.equal(x, x),
        lambda x: torch.allclose(x, x),
        lambda x: x.repeat_interleave(torch.ones_like(x).long()),
        lambda x: torch.where(x > 0, x, torch.tensor(1.0)),
        lambda x: x.masked_fill_(x > 0, x[0]),
        lambda x: x[torch.tensor([0, 1])],
        lambda x: x.copy_(torch.zeros(4)),
        lambda x: torch.zeros(4).copy_(x),
        lambda x: torch.zeros(4).to(DEVICE),
        lambda x: torch.zeros(4).to(x),
        lambda x: torch.zeros(4).to(DEVICE, non_blocking=True),
        lambda x: torch.zeros(4).pin_memory().to(DEVICE),
        lambda x: torch.tensor([1.0, 2.0], device=DEVICE),
        lambda x: torch.as_tensor([1.0, 2.0], device=x.device),
        lambda x: nn.utils.clip_grad_norm_(with_gradient(x), 1.0, error_if_nonfinite=True),
    ],
)  # fmt: skip
def test_a_wait_is_counted_once_and_its_line_is_named(wait: Callable[[Tensor], object]):
    x = torch.zeros(4)
    with DeviceWaits(x) as waits:
        wait(x)
    assert waits.count == 1, waits.where
    assert waits.where[0].startswith("tests/test_device_waits.py:")


@pytest.mark.parametrize(
    "work",
    [
        lambda x: (x * 2 + 1).sum().sqrt(),
        lambda x: x[1:3].mul_(2.0),
        lambda x: x.to(DEVICE).to(x).to(torch.float64),
        lambda x: x.masked_fill_(x > 0, 1.0),
        lambda x: torch.where(x > 0, x, 1.0),
        lambda x: x.index_select(0, torch.arange(2, device=DEVICE)),
        lambda x: x[torch.arange(2, device=DEVICE)],
        lambda x: x.__setitem__(x > 0, 1.0),
        lambda x: x.__setitem__(0, 1.0),
        lambda x: x.copy_(torch.zeros(4, device=x.device)),
        lambda x: x.copy_(torch.zeros(4).pin_memory(), non_blocking=True),
        lambda x: torch.zeros(4).pin_memory().to(DEVICE, non_blocking=True).sum(),
        lambda x: torch.zeros(4).nonzero(),
        lambda x: float(torch.ones(())) + x,
        lambda x: torch.randn_like(x).clamp(min=0),
        lambda x: torch.zeros(4, requires_grad=True).sum().backward(),
        lambda x: nn.utils.clip_grad_norm_(with_gradient(x), 1.0),
    ],
)
def test_what_does_not_wait_is_not_counted(work: Callable[[Tensor], object]):
    x = torch.zeros(4)
    with DeviceWaits(x) as waits:
        work(x)
    assert waits.count == 0, waits.where


def with_gradient(x: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(x)
    parameter.grad = torch.ones_like(x)
    return parameter


def test_what_comes_from_a_module_is_the_devices():
    layer, image = nn.Linear(3, 1), torch.zeros(2, 3)
    with DeviceWaits([layer]) as waits:
        loss = layer(image).sum()
        loss.backward()
        assert waits.count == 0
        float(loss.detach())
        bool(layer.weight.grad.any())
    assert waits.count == 2


def test_moving_a_module_is_a_wait_for_each_of_its_tensors():
    with DeviceWaits() as waits:
        layer = nn.Linear(3, 1).to(DEVICE)
        assert waits.count == 2
        layer.to(DEVICE)
    assert waits.count == 2


def test_what_has_come_back_is_the_hosts():
    with DeviceWaits(x := torch.zeros(3)) as waits:
        back = x.cpu()
        float(back.sum())
        back.to("cpu", torch.float64).tolist()
    assert waits.count == 1


def test_outside_of_the_block_nothing_is_counted():
    with DeviceWaits(x := torch.zeros(3)) as waits:
        pass
    x.tolist()
    assert waits.count == 0
