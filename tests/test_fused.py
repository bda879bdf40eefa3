"""Layers in fewer kernels compute what the plain layers do, and the plain way is taken wherever they cannot."""

import logging
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from artv_core.models import fused
from artv_core.models.attention import GatedLinear, SelfAttention
from artv_core.models.unet import ResBlock
from artv_core.run.pipeline import prepare_for_gpu
from tests.fused_child import MAPS, ROWS
from tests.models import smallest

CHILD = Path(__file__).parent / "fused_child.py"
ROOT = CHILD.parent.parent


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed, so its kernels cannot be tried")
def test_kernels_give_what_pytorch_gives():
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, CHILD], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    differences = [float(line) for line in done.stdout.split()]
    assert len(differences) == 2 * len(MAPS) + 2 + 2 * len(ROWS)
    assert max(differences) < 2e-4


def test_on_a_cpu_marked_layers_run_the_plain_way():
    device = torch.device("cpu")
    block = ResBlock(32, 64, 16, 8).eval()
    x, embedding = torch.randn(2, 32, 6, 5).to(memory_format=torch.channels_last), torch.randn(2, 16)
    with torch.no_grad():
        before = block(x, embedding)
        assert not fused.fuse(block, device, torch.float32)
        for layer in (block.in_layers[0], block.out_layers[0]):
            layer.may_fuse = True
        assert torch.equal(block(x, embedding), before)


def test_kernels_that_cannot_be_made_cost_one_line(monkeypatch, caplog):
    def fail(device: torch.device, dtype: torch.dtype) -> bool:
        raise ImportError("No module named 'triton'")

    monkeypatch.setattr(fused, "_kernels_agree", fail)
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "native")
    fused.can_fuse.cache_clear()
    with caplog.at_level(logging.INFO):
        assert not fused.can_fuse(torch.device("cuda"), torch.bfloat16)
    assert [record.getMessage() for record in caplog.records] == [
        "fused kernels are not used: ImportError: No module named 'triton'"
    ]
    assert not fused.can_fuse(torch.device("cuda"), torch.float64)
    monkeypatch.setattr(fused, "_kernels_agree", lambda device, dtype: True)
    for allocator, able in (("native", True), ("cudaMallocAsync", False)):
        monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda allocator=allocator: allocator)
        fused.can_fuse.cache_clear()
        assert fused.can_fuse(torch.device("cuda"), torch.bfloat16) == able
    fused.can_fuse.cache_clear()


# Self-attention's projections in one product


@pytest.fixture
def attention() -> SelfAttention:
    torch.manual_seed(0)
    return SelfAttention(32, 4).eval()


def products(attention: SelfAttention, x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The result, and how many products of matrices it took."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            self.found += operation._schema.name in ("aten::mm", "aten::addmm")
            return operation(*args, **(kwargs or {}))

    with torch.no_grad(), Count() as count:
        return attention(x), count.found


def test_one_product_makes_queries_keys_and_values(attention):
    x = torch.randn(2, 10, 32)
    plain, four = products(attention, x)
    keys = list(attention.state_dict())
    attention.join()
    joined, two = products(attention, x)
    assert (four, two) == (4, 2)
    torch.testing.assert_close(joined, plain, rtol=1e-5, atol=1e-6)
    assert list(attention.state_dict()) == keys


def test_weights_that_are_changed_or_replaced_are_the_ones_used(attention):
    x = torch.randn(2, 10, 32)
    attention.join()
    with torch.no_grad():
        attention.to_k.weight.mul_(1.5)
    expected = SelfAttention(32, 4).eval()
    expected.load_state_dict(attention.state_dict())
    got, count = products(attention, x)
    assert count == 2
    torch.testing.assert_close(got, products(expected, x)[0], rtol=1e-5, atol=1e-6)
    for module in (attention, expected):
        module.to_v.weight = nn.Parameter(expected.to_v.weight.detach() * 2)
    got, count = products(attention, x)
    assert count == 4
    assert torch.equal(got, products(expected, x)[0])


def test_joined_weights_are_trained_and_moved_like_others(attention):
    attention.join()
    attention(torch.randn(1, 5, 32)).sum().backward()
    assert attention.to_q.weight.grad is not None
    x = torch.randn(1, 5, 32, dtype=torch.float64)
    assert products(attention.double(), x)[1] == 4


def test_all_layers_of_a_model_are_made_ready():
    model = smallest(text=False)
    prepare_for_gpu(model)
    norms = [module for module in model.modules() if isinstance(module, nn.GroupNorm)]
    gates = [module for module in model.modules() if isinstance(module, GatedLinear)]
    assert norms
    assert gates
    assert all(module.may_fuse is False for module in [*norms, *gates]), "this is a CPU"
    attentions = [module for module in model.modules() if isinstance(module, SelfAttention)]
    assert attentions
    assert all(module._joined is not None for module in attentions)
