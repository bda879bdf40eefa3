"""What stands in for pooling that Apple GPUs lack or get wrong, against PyTorch's own on a CPU."""

import pytest
import torch
import torch.nn.functional as F

from artv_core.models.pooling import averaged_to, halved, halved_padded, pooled_to
from artv_core.speed.device_limits import lacking_ability


@pytest.mark.parametrize("size", [(8, 8), (9, 16), (16, 9), (3, 5), (1, 40), (37, 64)])
@pytest.mark.parametrize("grid", [1, 4, 8, 16])
def test_averages_by_matrices_are_those_of_adaptive_pooling(size: tuple[int, int], grid: int):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(averaged_to(x, grid), F.adaptive_avg_pool2d(x, grid), rtol=0, atol=1e-7)
    assert torch.equal(pooled_to(x, grid), F.adaptive_avg_pool2d(x, grid))


@pytest.mark.parametrize("size", [(8, 8), (9, 16), (16, 9), (3, 5), (1, 7)])
def test_an_odd_border_is_the_mean_of_what_is_there(size: tuple[int, int]):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(halved_padded(x), F.avg_pool2d(x, 2, ceil_mode=True), rtol=0, atol=1e-12)
    assert torch.equal(halved(x), F.avg_pool2d(x, 2, ceil_mode=True))


def test_on_an_apple_gpu_the_others_are_used(monkeypatch: pytest.MonkeyPatch):
    """Sizes that divide evenly keep PyTorch's own. A stand-in says that it is there; no such GPU was used."""

    class OnMPS(torch.Tensor):
        device = torch.device("mps")

    x = torch.randn(1, 2, 9, 8).as_subclass(OnMPS)
    used: list[str] = []
    for name in ("averaged_to", "halved_padded"):
        monkeypatch.setattr(f"artv_core.models.pooling.{name}", lambda *_, name=name: used.append(name))
    pooled_to(x, 4)
    halved(x)
    assert used == ["averaged_to", "halved_padded"]
    pooled_to(x[..., :8, :], 4)
    assert len(used) == 2


def test_the_message_of_an_apple_gpu_is_recognised():
    message = (
        "Adaptive pool MPS: input sizes must be divisible by output sizes. This is not implemented on MPS device yet"
    )
    assert lacking_ability(RuntimeError(message))
