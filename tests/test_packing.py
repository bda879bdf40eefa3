"""Packed weights: the same results, the same state dict, whatever sizes come."""

import pytest
import torch
from torch import nn

from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.method.options import GenerateOptions
from artv_core.run.pipeline import Pipeline
from artv_core.run.recording import weights_digest
from artv_core.speed.packed_weights import PackedConv2d, PackedLayer, PackedLinear, can_pack, pack_weights

pytestmark = pytest.mark.skipif(not can_pack(torch.float32), reason="this build of torch packs no weights")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2, "padding": 1}, {"bias": False}, {"groups": 2}])
@torch.inference_mode()
def test_convolutions(options: dict, dtype: torch.dtype):
    if not can_pack(dtype):
        pytest.skip(f"this processor has no kernels for packed weights in {dtype}")
    layer = nn.Conv2d(8, 12, 3, dtype=dtype, **options)
    packed, tolerance = PackedConv2d(layer), 1e-2 if dtype == torch.bfloat16 else 1e-5
    for shape in ((1, 8, 9, 7), (4, 8, 9, 7), (1, 8, 32, 32), (1, 8, 9, 7)):
        x = torch.randn(shape, dtype=dtype)
        expected = layer(x)
        for given in (x, x.contiguous(memory_format=torch.channels_last), x.flip(3).flip(3)):
            torch.testing.assert_close(packed(given), expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(packed.state_dict()["weight"], layer.weight)


@pytest.mark.parametrize(("fewest", "packed_rows"), [(0, {1, 5, 12, 14}), (10_000, {12, 14}), (10**6, set())])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_linear_layers(bias: bool, fewest: int, packed_rows: set[int]):
    layer = nn.Linear(24, 40, bias=bias)
    packed = PackedLinear(layer, fewest)
    for shape in ((24,), (5, 24), (2, 7, 24), (3, 2, 2, 24), (5, 24)):
        x = torch.randn(shape)
        torch.testing.assert_close(packed(x), layer(x), rtol=1e-5, atol=1e-5)
        assert packed.weight.is_mkldnn == (x.numel() // 24 in packed_rows)
    assert packed.state_dict().keys() == layer.state_dict().keys()
    assert all(torch.equal(tensor, layer.state_dict()[name]) for name, tensor in packed.state_dict().items())


def test_only_types_that_kernels_take():
    assert not can_pack(torch.float64)
    assert not can_pack(torch.int8)


def test_a_pipeline_is_packed_and_samples_the_same():
    model = load_checkpoint(resolve_checkpoint("tiny"))
    digest, names = weights_digest(model), list(model.noise.state_dict())
    fast, plain = Pipeline.from_checkpoint("tiny"), Pipeline(model)
    layers = [layer for layer in fast.model.noise.modules() if isinstance(layer, nn.Conv2d | nn.Linear | PackedLayer)]
    assert len(layers) > 50
    assert all(isinstance(layer, PackedLayer) for layer in layers)
    options = GenerateOptions(num_frames=3, steps=3, height=32, width=48)
    prompt = "a red circle moving left on a blue background"
    for got, expected in zip(fast.frames(prompt, options), plain.frames(prompt, options), strict=True):
        torch.testing.assert_close(got.latent, expected.latent, rtol=1e-3, atol=1e-3)
    assert list(fast.model.noise.state_dict()) == names
    assert weights_digest(fast.model) == digest, "a journal of the one goes on with the other"


def test_double_precision_stays_as_it_is():
    model = Pipeline.from_checkpoint("tiny", dtype=torch.float64).model
    assert not any(isinstance(layer, PackedLayer) for layer in model.modules())


def test_layers_of_other_kinds_are_left_alone():
    class Other(nn.Linear):
        pass

    module = nn.Sequential(Other(3, 3), nn.Sequential(nn.Linear(3, 3)), nn.Conv2d(3, 3, 3, padding="same"))
    pack_weights(module)
    assert [type(layer) for layer in module.modules()][1:] == [Other, nn.Sequential, PackedLinear, nn.Conv2d]
