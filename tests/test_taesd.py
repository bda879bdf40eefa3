"""The TAESD-type VAE against diffusers' AutoencoderTiny on the same random weights."""

import pytest
import torch
from torch import Tensor

from artv_core.models.taesd import TAESD


def test_equals_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    ours = TAESD().eval()
    theirs = diffusers.AutoencoderTiny().eval()
    theirs.load_state_dict(to_diffusers(ours.state_dict()), strict=True)
    images = torch.rand(2, 3, 48, 64)
    latents = torch.randn(2, 4, 5, 6) * 3
    with torch.no_grad():
        assert relative_error(ours.encode(images), theirs.encoder(images * 2 - 1)) < 1e-4
        assert relative_error(ours.decode_raw(latents), theirs.decode(latents).sample / 2 + 0.5) < 1e-4


def to_diffusers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """diffusers names the clamp outside its list of layers, so its decoder counts from one less."""
    renamed = {}
    for key, tensor in state.items():
        part, index, rest = key.split(".", 2)
        shift = 1 if part == "taesd_decoder" else 0
        renamed[f"{part.removeprefix('taesd_')}.layers.{int(index) - shift}.{rest}"] = tensor
    return renamed


def relative_error(got: Tensor, expected: Tensor) -> float:
    return ((got - expected).abs().max() / expected.abs().max()).item()


def test_keys_are_those_the_host_detects_a_vae_by() -> None:
    state = TAESD().state_dict()
    assert state["taesd_decoder.1.weight"].shape == (64, 4, 3, 3)
    assert state["taesd_encoder.14.weight"].shape == (4, 64, 3, 3)
    assert {key.split(".")[0] for key in state} == {"taesd_encoder", "taesd_decoder"}


def test_shapes_and_clamp() -> None:
    vae = TAESD(width=8)
    latents = vae.encode(torch.rand(3, 3, 16, 40))
    assert latents.shape == (3, 4, 2, 5)
    vae.taesd_decoder[-1].bias.data.fill_(5)
    assert vae.decode(latents).max() == 1
    assert vae.decode_raw(latents).shape == (3, 3, 16, 40)
    assert vae.decode_raw(latents).max() > 1
