"""A noise UNet in memory instead of one in a file, as a program gives it that has the model already."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from artv_core.checkpoint import load_checkpoint, save_checkpoint
from artv_core.config import preset
from artv_core.files.tensor_file import tensors_as_file
from artv_core.models.artv import ARTV
from artv_core.run.recording import weights_digest
from tests.models import untrained, write_public_base

PREFIX = "model.diffusion_model."


@pytest.fixture(scope="module")
def model() -> ARTV:
    return untrained()


@pytest.fixture(scope="module")
def adapter(model: ARTV, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapter") / "adapter.safetensors"
    save_checkpoint(model, path, parts=("branches", "mask"), base="base.safetensors")
    return path


@pytest.fixture(scope="module")
def public(model: ARTV, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("public") / "base.safetensors"
    write_public_base(path, model.config)
    return path


def unet_of(public: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return {key: tensor for key, tensor in load_file(public).items() if key.startswith(PREFIX)}


def test_its_tensors_become_weights_without_a_copy(adapter: Path, public: Path) -> None:
    unet = unet_of(public)
    loaded = load_checkpoint(adapter, unet=tensors_as_file("the model", unet), without=("vae", "text"))
    state = loaded.noise.diffusion_model.state_dict()
    for key, tensor in unet.items():
        assert state[key.removeprefix(PREFIX)].data_ptr() == tensor.data_ptr(), key
        assert state[key.removeprefix(PREFIX)].dtype == torch.float16, key
    assert next(loaded.noise.reference_adapter.parameters()).dtype == torch.float32


def test_it_equals_the_same_unet_from_a_base(adapter: Path, public: Path) -> None:
    given = load_checkpoint(adapter, unet=tensors_as_file("the model", unet_of(public)), without=("vae", "text"))
    usual = load_checkpoint(adapter, base=public, without=("vae", "text"))
    both = given.state_dict(), usual.state_dict()
    assert all(torch.equal(both[0][key].float(), both[1][key]) for key in both[0] | both[1])
    types = dict.fromkeys(both[0], torch.float32)
    assert weights_digest(given, types) == weights_digest(usual) != weights_digest(given)


def test_it_is_used_instead_of_the_files_own(model: ARTV, public: Path, tmp_path: Path) -> None:
    save_checkpoint(model, tmp_path / "whole.safetensors")
    unet = unet_of(public)
    loaded = load_checkpoint(tmp_path / "whole.safetensors", unet=tensors_as_file("the model", unet))
    key = "input_blocks.0.0.weight"
    assert torch.equal(loaded.noise.diffusion_model.state_dict()[key], unet[PREFIX + key])


@pytest.mark.parametrize(
    ("tensors", "kind"),
    [
        ({"double_blocks.0.img_mod.lin.weight": (4, 4)}, "a Flux checkpoint"),
        ({"joint_blocks.0.x_block.attn.qkv.weight": (4, 4)}, "a Stable Diffusion 3 checkpoint"),
        ({"input_blocks.0.0.weight": (320, 9, 3, 3)}, "an inpainting checkpoint"),
        ({"input_blocks.0.0.weight": (320, 4, 3, 3), "label_emb.0.0.weight": (4, 4)}, "an SDXL checkpoint"),
        ({"input_blocks.1.1.proj_in.weight": (4, 4, 1, 1)}, "a Stable Diffusion 1.x checkpoint"),
    ],
)
def test_another_family_is_one_sentence(adapter: Path, tensors: dict[str, tuple[int, ...]], kind: str) -> None:
    unet = tensors_as_file("the model", {PREFIX + key: torch.zeros(shape) for key, shape in tensors.items()})
    with pytest.raises(ValueError, match=rf"^the model is {kind}.*needs a Stable Diffusion 2.x checkpoint") as error:
        load_checkpoint(adapter, unet=unet)
    assert "\n" not in str(error.value)


def test_other_sizes_and_types_are_told(adapter: Path, public: Path) -> None:
    unet = unet_of(public)
    wide = unet | {f"{PREFIX}input_blocks.0.0.weight": torch.zeros(64, 4, 3, 3)}
    with pytest.raises(ValueError, match=r"the model does not fit: 1 wrong shapes: .*input_blocks.0.0.weight"):
        load_checkpoint(adapter, unet=tensors_as_file("the model", wide))
    whole = unet | {f"{PREFIX}input_blocks.0.0.bias": unet[f"{PREFIX}input_blocks.0.0.bias"].to(torch.int8)}
    with pytest.raises(ValueError, match=r"1 wrong types: .*got torch.int8"):
        load_checkpoint(adapter, unet=tensors_as_file("the model", whole))


def test_the_configuration_of_the_family_counts(tmp_path: Path) -> None:
    """A file for SD 1.x takes no UNet of SD 2.x."""
    tiny = preset("tiny")
    unet = replace(tiny.noise.unet, num_heads=4, linear_projections=False)
    model = ARTV(replace(tiny, noise=replace(tiny.noise, unet=unet)))
    save_checkpoint(model, tmp_path / "sd1.safetensors", parts=("branches", "mask"), base="v1.safetensors")
    two = tensors_as_file("the model", {f"{PREFIX}input_blocks.0.0.weight": torch.zeros(4, 4, 3, 3)})
    with pytest.raises(ValueError, match=r"the model is a Stable Diffusion 2.x checkpoint; .* needs a .* 1.x"):
        load_checkpoint(tmp_path / "sd1.safetensors", unet=two)
