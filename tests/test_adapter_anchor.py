"""The reference adapter is T2I-Adapter's; the anchor encoder makes the same tokens of any latent size."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import T2IAdapter
from torch import Tensor

from artv_core.config import AdapterConfig, AnchorConfig, UNetConfig, preset
from artv_core.models.adapter import ReferenceAdapter
from artv_core.models.anchor import AnchorEncoder
from artv_core.models.unet import UNet

UNET = UNetConfig(model_channels=16, head_channels=8, norm_groups=8, context_dim=10)


def open_zero_layers(adapter: ReferenceAdapter) -> None:
    """Make the closing convolutions pass their input on unchanged."""
    for layer in adapter.zero_out:
        torch.nn.init.dirac_(layer.weight)


def to_diffusers(state_dict: dict[str, Tensor], num_blocks: int) -> dict[str, Tensor]:
    converted = {}
    for key, value in state_dict.items():
        parts = key.split(".")
        if parts[0] == "conv_in":
            converted[f"adapter.{key}"] = value
        elif parts[0] == "body":
            level, block = divmod(int(parts[1]), num_blocks)
            inner = parts[2:] if parts[2] == "in_conv" else ["resnets", str(block), *parts[2:]]
            converted[".".join(["adapter.body", str(level), *inner])] = value
    return converted


@pytest.mark.parametrize("num_blocks", [1, 2])
@pytest.mark.parametrize("size", [(16, 8), (13, 7)])
@torch.no_grad()
def test_adapter_parity_with_diffusers(num_blocks, size):
    ours = ReferenceAdapter(AdapterConfig(num_blocks=num_blocks), UNET)
    open_zero_layers(ours)
    theirs = T2IAdapter(in_channels=8, channels=UNET.level_channels, num_res_blocks=num_blocks, downscale_factor=1)
    theirs.load_state_dict(to_diffusers(ours.state_dict(), num_blocks))
    latents = torch.randn(2, 8, *size)
    for got, expected in zip(ours(latents), theirs(latents), strict=True):
        assert got.shape == expected.shape
        assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


def test_adapter_of_stable_diffusion():
    config = preset("sd21").noise
    with torch.device("meta"):
        adapter = ReferenceAdapter(config.adapter, config.unet)
        features = adapter(torch.randn(1, 8, 64, 64))
    assert adapter.conv_in.weight.shape == (320, 8, 3, 3)
    assert [tuple(map_.shape[1:]) for map_ in features] == [(320, 64, 64), (640, 32, 32), (1280, 16, 16), (1280, 8, 8)]
    keys = {key.rsplit(".", 1)[0] for key in adapter.state_dict()}
    blocks = {f"body.{index}.{name}" for index in range(8) for name in ("block1", "block2")}
    closing = {f"zero_out.{level}" for level in range(4)}
    assert keys == {"conv_in", "body.2.in_conv", "body.4.in_conv"} | blocks | closing


@torch.no_grad()
def test_adapter_is_silent_until_trained():
    features = ReferenceAdapter(AdapterConfig(), UNET)(torch.randn(1, 8, 8, 8))
    assert [feature.abs().max().item() for feature in features] == [0.0] * 4


@pytest.mark.parametrize("size", [(9, 15), (11, 8), (1, 3)])
@torch.no_grad()
def test_adapter_maps_fit_the_unet_at_odd_sizes(size):
    adapter, unet = ReferenceAdapter(AdapterConfig(num_references=3), UNET), UNet(UNET)
    open_zero_layers(adapter)
    tokens = unet.project_tokens(torch.randn(1, 4, 10))
    out = unet(torch.randn(1, 4, *size), torch.tensor([10.0]), tokens, adapter(torch.randn(1, 12, *size)))
    assert out.shape == (1, 4, *size)


def test_adapter_refuses_a_wrong_number_of_references():
    adapter = ReferenceAdapter(AdapterConfig(), UNET)
    with pytest.raises(
        ValueError, match=r"got reference latents of 4 channels, expected 8: 2 references of 4 channels"
    ):
        adapter(torch.randn(1, 4, 8, 8))


@pytest.fixture
def encoder() -> AnchorEncoder:
    torch.manual_seed(0)
    return AnchorEncoder(AnchorConfig(patch_size=2, grid=4, width=24), in_channels=4)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (64, 40), (3, 2), (1, 1)])
@torch.no_grad()
def test_anchor_tokens_of_any_size(encoder, size):
    latent = torch.randn(2, 4, *size)
    tokens = encoder(latent)
    assert tokens.shape == (2, 17, 24)
    assert tokens.isfinite().all()
    assert (tokens[0] - tokens[1]).abs().amax(dim=-1).min() > 0.01  # each token sees the latent


@torch.no_grad()
def test_anchor_tokens_run_row_by_row_and_the_last_sees_the_whole(encoder):
    latent = torch.randn(1, 4, 8, 8)
    before = encoder(latent)
    for row, column in [(0, 0), (1, 2), (3, 3)]:
        changed = latent.clone()
        changed[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 1
        moved = (encoder(changed) - before).abs().amax(dim=-1)[0] > 1e-6
        assert moved.nonzero().flatten().tolist() == [4 * row + column, 16]


@torch.no_grad()
def test_anchor_tokens_do_not_depend_on_the_size_of_a_flat_latent(encoder):
    colour = torch.randn(1, 4, 1, 1)
    expected = encoder(colour.expand(1, 4, 8, 8))
    for size in [(16, 16), (5, 11), (2, 3)]:
        assert (encoder(colour.expand(1, 4, *size)) - expected).abs().max() < 1e-5


@torch.no_grad()
def test_anchor_pads_with_the_border(encoder):
    latent = torch.randn(1, 4, 7, 5)
    assert torch.equal(encoder(latent), encoder(F.pad(latent, (0, 1, 0, 1), mode="replicate")))
    assert not torch.equal(encoder(latent), encoder(F.pad(latent, (0, 1, 0, 1))))


@torch.no_grad()
def test_anchor_tokens_know_their_place(encoder):
    tokens = encoder(torch.zeros(1, 4, 8, 8))[0]
    assert torch.pdist(tokens).min() > 0.1


def test_anchor_of_stable_diffusion():
    config = preset("sd21").noise
    with torch.device("meta"):
        tokens = AnchorEncoder(config.anchor, 4)(torch.randn(1, 4, 64, 64))
    assert tokens.shape == (1, 257, 512)
