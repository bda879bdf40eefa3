"""AutoencoderKL is Stable Diffusion's to the key and to 1e-4."""

import copy

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersAutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from torch import Tensor

from artv_core.models.autoencoder_kl import AutoencoderKL


def diffusers_vae(widths: tuple[int, ...], norm_groups: int) -> DiffusersAutoencoderKL:
    return DiffusersAutoencoderKL(
        block_out_channels=widths,
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=norm_groups,
    )


def to_diffusers(state_dict: dict[str, Tensor], levels: int = 4) -> dict[str, Tensor]:
    ldm = {f"first_stage_model.{key}": value for key, value in state_dict.items()}
    blocks = {"down_block_types": [""] * levels, "up_block_types": [""] * levels}
    return convert_ldm_vae_checkpoint(ldm, blocks)


@pytest.fixture(scope="module")
def pair() -> tuple[AutoencoderKL, DiffusersAutoencoderKL]:
    torch.manual_seed(0)
    ours, theirs = AutoencoderKL(channels=16, norm_groups=8), diffusers_vae((16, 32, 64, 64), 8)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(float("norm" in name and "weight" in name), 0.2)
        ours.decoder.conv_out.weight.mul_(0.5)
        ours.decoder.conv_out.bias.zero_()
    theirs.load_state_dict(to_diffusers(ours.state_dict()))
    return ours, theirs


def relative_error(got: Tensor, expected: Tensor) -> float:
    return ((got - expected).abs().max() / expected.abs().max()).item()


def test_every_key_and_shape_of_stable_diffusion():
    with torch.device("meta"):
        ours, theirs = AutoencoderKL(), diffusers_vae((128, 256, 512, 512), 32)
    assert sum(parameter.numel() for parameter in ours.parameters()) == 83_653_863
    converted = to_diffusers(ours.state_dict())
    assert len(converted) == len(ours.state_dict()) == 248  # the converter drops what it does not know
    expected = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in converted.items()} == expected
    assert {
        "encoder.down.0.downsample.conv.weight",
        "encoder.down.1.block.0.nin_shortcut.weight",
        "encoder.mid.attn_1.proj_out.weight",
        "decoder.up.3.upsample.conv.weight",
        "decoder.up.0.block.2.conv2.bias",
        "quant_conv.weight",
        "post_quant_conv.bias",
    } <= set(ours.state_dict())
    assert ours.state_dict()["encoder.mid.attn_1.q.weight"].shape == (512, 512, 1, 1)


@pytest.mark.parametrize("size", [(32, 32), (40, 24), (8, 8)])
@torch.no_grad()
def test_encode_parity_with_diffusers(pair, size):
    ours, theirs = pair
    images = torch.rand(2, 3, *size)
    expected = theirs.encode(images * 2 - 1).latent_dist.mean
    got = ours.encode(images)
    assert got.shape == expected.shape == (2, 4, size[0] // 8, size[1] // 8)
    assert relative_error(got, expected) < 1e-4


@pytest.mark.parametrize("size", [(4, 4), (5, 3), (1, 1)])
@torch.no_grad()
def test_decode_parity_with_diffusers(pair, size):
    ours, theirs = pair
    latents = torch.randn(2, 4, *size)
    raw = theirs.decode(latents).sample / 2 + 0.5
    inside = (raw > 0) & (raw < 1)
    assert inside.float().mean() > 0.5
    assert raw[inside].std() > 0.05
    got = ours.decode(latents)
    assert got.shape == (2, 3, 8 * size[0], 8 * size[1])
    assert relative_error(got, raw.clamp(0, 1)) < 1e-4


@torch.no_grad()
def test_decoded_images_are_clamped(pair):
    vae = copy.deepcopy(pair[0])
    vae.decoder.conv_out.weight.mul_(100)
    images = vae.decode(torch.randn(1, 4, 4, 4))
    assert (images.min(), images.max()) == (0, 1)


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    vae = AutoencoderKL(channels=8, norm_groups=4)
    images = torch.rand(1, 3, 32, 32)
    (vae.decode(vae.encode(images)) - images).square().mean().backward()
    without = [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


@pytest.mark.parametrize(("size", "advice"), [((33, 40), "32 x 40"), ((4, 20), "8 x 16")])
def test_sizes_that_are_not_multiples_of_eight_are_refused(pair, size, advice):
    with pytest.raises(ValueError, match=rf"{size[0]} x {size[1]} pixels, expected multiples of 8, e.g. {advice}"):
        pair[0].encode(torch.rand(1, 3, *size))
