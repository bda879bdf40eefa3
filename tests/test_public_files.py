"""Public Stable Diffusion files as people have them: other tools' names and leftovers are read, and what cannot be a
base is called by its name."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from artv_core.checkpoint import (
    describe_checkpoint,
    initialise_from_stable_diffusion,
    load_checkpoint,
    prediction_warning,
    read_part,
    save_checkpoint,
)
from artv_core.checkpoint.info import parts_in
from artv_core.cli import main
from artv_core.files.tensor_file import open_tensor_file
from artv_core.models import artv
from artv_core.models.artv import ARTV
from artv_core.models.autoencoder_kl import AutoencoderKL
from tests.test_checkpoint import SMALL_SD, SMALL_SD1, public_tensors, refusal, same

Tensors = dict[str, Tensor]
STEM = "model.diffusion_model.input_blocks.0.0.weight"
LAST = "cond_stage_model.model.transformer.resblocks.1."
LAST_NORM = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


@pytest.fixture(autouse=True)
def small_kl_vae(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artv, "AutoencoderKL", functools.partial(AutoencoderKL, channels=8, norm_groups=8))


@pytest.fixture(scope="module")
def usual() -> Tensors:
    """The weights of a small public SD 2.x file, under the usual names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artv, "AutoencoderKL", functools.partial(AutoencoderKL, channels=8, norm_groups=8))
        return public_tensors(SMALL_SD, 3)


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was trained alone; it needs a base."""
    path = tmp_path_factory.mktemp("part") / "part.safetensors"
    save_checkpoint(ARTV(SMALL_SD, vae=False), path, parts=("branches", "mask"), base="sd.safetensors")
    return path


@pytest.fixture(scope="module")
def blank() -> ARTV:
    """Where a file is refused, nothing is filled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artv, "AutoencoderKL", functools.partial(AutoencoderKL, channels=8, norm_groups=8))
        return ARTV(SMALL_SD)


class Read(NamedTuple):
    """All that is read of a public file."""

    filled: ARTV
    base: ARTV
    parts: dict[str, Tensors]
    told: tuple[str, ...]


@pytest.fixture(scope="module")
def plain(usual: Tensors, part: Path, tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Of the file under its usual names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artv, "AutoencoderKL", functools.partial(AutoencoderKL, channels=8, norm_groups=8))
        return read(saved(tmp_path_factory.mktemp("plain") / "plain.safetensors", usual), part)


def read(path: Path, part: Path) -> Read:
    parts = {name: read_part(part, name, base=path) for name in ("vae", "text")}
    return Read(filled(path), load_checkpoint(part, base=path), parts, parts_in(path))


def saved(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, path, metadata)
    return path


def filled(path: Path) -> ARTV:
    torch.manual_seed(0)
    model = ARTV(SMALL_SD)
    initialise_from_stable_diffusion(model, path)
    return model


def renamed(tensors: Tensors, *pairs: tuple[str, str], only: str = "") -> Tensors:
    result = {}
    for key, tensor in tensors.items():
        name = key
        for old, new in pairs if only in key else ():
            name = name.replace(old, new)
        result[name] = tensor
    return result


def flat(tensors: Tensors, words: tuple[str, ...]) -> Tensors:
    """Projections as linear layers have them, or the other way round."""
    return {
        key: (tensor.reshape(tensor.shape[:2]) if tensor.ndim == 4 else tensor[..., None, None])
        if key.endswith(".weight") and any(word in key for word in words)
        else tensor
        for key, tensor in tensors.items()
    }


VAE_NAMES = ((".q.", ".to_q."), (".k.", ".to_k."), (".v.", ".to_v."), (".proj_out.", ".to_out.0."))
OLD_VAE_NAMES = ((".q.", ".query."), (".k.", ".key."), (".v.", ".value."), (".proj_out.", ".proj_attn."))
SQUARE = ("mid.attn_1.q.", "mid.attn_1.k.", "mid.attn_1.v.", "mid.attn_1.proj_out.")
SAME: dict[str, Callable[[Tensors], Tensors]] = {
    "sgm": lambda given: renamed(given, ("cond_stage_model.", "conditioner.embedders.0.")),
    "newer VAE": lambda given: renamed(given, *VAE_NAMES, (".norm.", ".group_norm."), only="mid.attn_1."),
    "older VAE": lambda given: renamed(given, *OLD_VAE_NAMES, (".norm.", ".group_norm."), only="mid.attn_1."),
    "linear VAE": lambda given: flat(given, SQUARE),
    "both": lambda given: renamed(flat(given, SQUARE), *VAE_NAMES, only="mid.attn_1."),
    "convolutions": lambda given: flat(given, (".1.proj_in.", ".1.proj_out.")),
    "leftovers": lambda given: {
        **given,
        "v_pred": torch.tensor([]),
        "ztsnr": torch.tensor([]),
        "embedding_manager.embedder.transformer.text_model.embeddings.position_ids": torch.zeros(1, 77),
        "bundle_emb.style.string_to_param.*": torch.zeros(2, 16),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(8)[None],
        "global_step": torch.tensor(5),
    },
    "doubles": lambda given: {key: tensor.double() for key, tensor in given.items()},
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_the_same_weights_under_other_names_and_shapes(
    change, usual: Tensors, plain: Read, part: Path, tmp_path: Path
) -> None:
    other = read(saved(tmp_path / "other.safetensors", change(usual)), part)
    assert same(other.filled, plain.filled)
    assert same(other.base, plain.base)
    assert other.told == plain.told
    for name, wanted in plain.parts.items():
        got = other.parts[name]
        assert all(torch.equal(got[key], tensor) for key, tensor in wanted.items())
        assert not [key for key in got.keys() - wanted.keys() if not key.endswith("position_ids")]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_eight_bits(dtype: torch.dtype, usual: Tensors, part: Path, tmp_path: Path) -> None:
    eight = {key: tensor.to(dtype) for key, tensor in usual.items()}
    path = saved(tmp_path / "fp8.safetensors", eight)
    reference = saved(tmp_path / "reference.safetensors", {key: tensor.float() for key, tensor in eight.items()})
    assert same(filled(path), filled(reference))
    assert all(tensor.dtype == torch.float16 for tensor in read_part(part, "vae", base=path).values())
    saved(path, {**eight, "scaled_fp8": torch.zeros(2)})
    assert "quantised weights with scales (scaled_fp8); use its float16 version" in refusal(lambda: filled(path))


def test_a_text_encoder_without_the_block_that_is_never_computed(usual: Tensors, part: Path, tmp_path: Path) -> None:
    whole = filled(saved(tmp_path / "whole.safetensors", usual))
    path = saved(tmp_path / "short.safetensors", {key: t for key, t in usual.items() if not key.startswith(LAST)})
    texts = ["a star", "one two three"]
    for model in (filled(path), load_checkpoint(part, base=path)):
        assert torch.equal(model.encode_text(texts), whole.encode_text(texts))
        last = model.text.model.transformer.resblocks[1].state_dict()
        assert not any(tensor.any() for tensor in last.values())
        save_checkpoint(model, tmp_path / "saved.safetensors", dtype=torch.float32)
        assert same(load_checkpoint(tmp_path / "saved.safetensors"), model)
    assert read_part(part, "text", base=path).keys() == {key for key in usual if key.startswith("cond_stage_model.")}
    part_of_it = {key: tensor for key, tensor in usual.items() if key != f"{LAST}ln_1.weight"}
    assert f"missing keys: {LAST}ln_1.weight" in refusal(lambda: filled(saved(path, part_of_it)))
    first = {key: t for key, t in usual.items() if not key.startswith(LAST.replace("resblocks.1", "resblocks.0"))}
    assert "12 missing keys" in refusal(lambda: filled(saved(path, first)))


LEFT_OVER = {
    "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(8)[None],
    "cond_stage_model.model.logit_scale": torch.zeros(()),
    "first_stage_model.loss.logvar": torch.zeros(()),
}


def test_left_overs_are_no_part(usual: Tensors, part: Path, tmp_path: Path) -> None:
    """A merged file may keep a part's keys that no network reads, without the part."""
    unet = {key: tensor for key, tensor in usual.items() if key.startswith("model.")}
    path = saved(tmp_path / "merged.safetensors", unet | LEFT_OVER)
    loaded = load_checkpoint(part, base=path)
    assert loaded.text is None
    assert loaded.vae is None
    assert read_part(part, "text", base=path) == read_part(path, "text") == {}
    assert parts_in(path) == ("unet",)
    assert "has no text encoder; choose a file that has it" in refusal(
        lambda: initialise_from_stable_diffusion(ARTV(SMALL_SD), path, parts=("text",))
    )


def test_a_base_that_is_not_needed_is_not_checked(tmp_path: Path) -> None:
    model = ARTV(SMALL_SD)
    save_checkpoint(model, tmp_path / "whole.safetensors", dtype=torch.float32)
    base = saved(tmp_path / "sdxl.safetensors", {"conditioner.embedders.1.model.x": torch.zeros(1)} | unet())
    assert same(load_checkpoint(tmp_path / "whole.safetensors", base=base), model)


def test_what_the_model_computes_must_be_there(usual: Tensors, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL_SD, text=dataclasses.replace(SMALL_SD.text, layer="last"))
    path = saved(tmp_path / "short.safetensors", {key: t for key, t in usual.items() if not key.startswith(LAST)})
    assert "12 missing keys" in refusal(lambda: initialise_from_stable_diffusion(ARTV(config), path))


def test_reading_stays_strict(usual: Tensors, blank: ARTV, tmp_path: Path) -> None:
    path, query = tmp_path / "a.safetensors", "first_stage_model.decoder.mid.attn_1.q.weight"

    def refused(tensors: Tensors) -> str:
        return refusal(lambda: initialise_from_stable_diffusion(blank, saved(path, tensors)))

    twice = {**usual, query.replace(".q.", ".to_q."): usual[query]}
    assert "1 unexpected keys: first_stage_model.decoder.mid.attn_1.to_q" in refused(twice)
    narrow = {**usual, query: usual[query][:, :4, 0, 0]}
    assert f"wrong shapes: {query}" in refused(narrow)
    ends = {**usual, "model.diffusion_model.out.2.bias": usual["model.diffusion_model.out.2.bias"][:, None, None]}
    assert "wrong shapes: model.diffusion_model.out.2.bias" in refused(ends)
    integers = {**usual, STEM: usual[STEM].to(torch.int8)}
    assert "wrong types" in refused(integers)
    no_vae = {key: tensor for key, tensor in usual.items() if not key.startswith("first_stage_model.")}
    assert "has no VAE; choose a file that has it" in refused(no_vae)
    assert initialise_from_stable_diffusion(ARTV(SMALL_SD, vae=False), path) == ("unet", "text")


def test_a_picture_in_the_metadata(usual: Tensors, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", usual, {"modelspec.thumbnail": "A" * 20_000_000})
    assert same(filled(path), filled(saved(tmp_path / "b.safetensors", usual)))


# What a file is


def unet(channels: int = 4, *keys: str) -> Tensors:
    return {STEM: torch.zeros(8, channels, 3, 3), **{key: torch.zeros(2) for key in keys}}


TEXT = "cond_stage_model.model.ln_final.weight"
KINDS = {
    "inpainting": (unet(9, TEXT), "an inpainting checkpoint"),
    "depth": (unet(5, TEXT, "depth_model.x"), "a depth-to-image checkpoint"),
    "edit": (unet(8, TEXT), "an image-editing checkpoint"),
    "upscaler": (unet(7, TEXT, "model.diffusion_model.label_emb.weight"), "an upscaler's checkpoint"),
    "sdxl": (unet(4, "conditioner.embedders.0.transformer.text_model.x", "conditioner.embedders.1.model.x"), "SDXL"),
    "refiner": (unet(4, "conditioner.embedders.0.model.x", "model.diffusion_model.label_emb.0.0.weight"), "SDXL"),
    "sdxl unet": (unet(4, "model.diffusion_model.label_emb.0.0.weight"), "SDXL"),
    "unclip": (unet(4, "noise_augmentor.betas", "model.diffusion_model.label_emb.0.0.weight"), "unCLIP"),
    "sd3": ({"model.diffusion_model.joint_blocks.0.x": torch.zeros(2)}, "a Stable Diffusion 3 checkpoint"),
    "flux": ({"model.diffusion_model.double_blocks.0.x": torch.zeros(2)}, "a Flux checkpoint"),
    "svd": (unet(8, "conditioner.embedders.0.open_clip.model.x"), "(its UNet takes 8 channels)"),
    "ema": (
        {"model_ema.diffusion_modelinput_blocks00weight": torch.zeros(2), TEXT: torch.zeros(2)}
        | {"first_stage_model.encoder.x": torch.zeros(2)},
        "averaged (EMA) weights of its UNet alone",
    ),
    "vae": ({"decoder.up.0.block.0.x": torch.zeros(2)}, "a VAE"),
    "diffusers vae": ({"decoder.up_blocks.0.x": torch.zeros(2)}, "a VAE with the names of diffusers"),
    "diffusers unet": ({"down_blocks.0.attentions.0.x": torch.zeros(2)}, "a UNet with the names of diffusers"),
    "bare unet": ({"input_blocks.0.0.weight": torch.zeros(2)}, "a UNet without the usual prefix"),
    "lora": ({"lora_te_x.lora_up.weight": torch.zeros(2)}, "a LoRA"),
    "peft": ({"base_model.model.x.lora_A.weight": torch.zeros(2)}, "a LoRA"),
    "lokr": ({"lycoris_x.lokr_w1": torch.zeros(2)}, "a LoRA"),
    "controlnet": ({"control_model.input_blocks.0.0.weight": torch.zeros(2)}, "a ControlNet"),
    "motion": ({"down_blocks.0.motion_modules.0.x": torch.zeros(2)}, "an AnimateDiff motion module"),
    "text": ({"text_model.encoder.layers.0.x": torch.zeros(2)}, "a text encoder alone"),
    "embedding": ({"emb_params": torch.zeros(2)}, "a textual inversion"),
}


@pytest.mark.parametrize(("tensors", "words"), KINDS.values(), ids=KINDS)
def test_whatever_is_refused_is_called_by_its_name(
    tensors: Tensors, words: str, part: Path, blank: ARTV, tmp_path: Path
) -> None:
    path = saved(tmp_path / "other.safetensors", tensors)
    message = refusal(lambda: describe_checkpoint(path))
    assert words in message
    assert message.endswith(", not an ARTV checkpoint")
    assert words in refusal(lambda: initialise_from_stable_diffusion(blank, path))
    if any(key.startswith("model.") for key in tensors):
        assert words in refusal(lambda: load_checkpoint(part, base=path))


def test_info_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "other.safetensors", unet(9, TEXT))
    assert main(["info", str(path)]) != 0
    said = capsys.readouterr().err.strip()
    assert "an inpainting checkpoint (its UNet takes 9 channels)" in said
    assert "\n" not in said


def test_channels_that_no_list_has(usual: Tensors, tmp_path: Path) -> None:
    path = saved(tmp_path / "other.safetensors", {**usual, STEM: torch.zeros(16, 12, 3, 3)})
    assert "its UNet takes 12 channels; this model needs a Stable Diffusion 2.x checkpoint with 4" in refusal(
        lambda: filled(path)
    )


# What it predicts

SPREAD, NARROW = torch.randn(320, generator=torch.Generator().manual_seed(0)) * 0.2, torch.full((320,), 0.3)
LINEAR = {"model.diffusion_model.input_blocks.1.1.proj_in.weight": torch.zeros(2, 2)}
CONVOLUTION = {"model.diffusion_model.input_blocks.1.1.proj_in.weight": torch.zeros(2, 2, 1, 1)}
PREDICTIONS: dict[str, tuple[Tensors, dict[str, str], str]] = {
    "2.1": (unet() | LINEAR | {LAST_NORM: SPREAD}, {}, "that seems to predict v (judged"),
    "2.1 base": (unet() | LINEAR | {LAST_NORM: NARROW}, {}, "that seems to predict eps (judged"),
    "marked": (unet() | LINEAR | {"v_pred": torch.tensor([])}, {}, "that predicts v,"),
    "marked more": (
        unet() | LINEAR | {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])},
        {},
        "that predicts v, with zero terminal SNR",
    ),
    "noted": (unet() | LINEAR | {LAST_NORM: SPREAD}, {"modelspec.prediction_type": "epsilon"}, "that predicts eps"),
    "1.5": (unet() | CONVOLUTION, {}, "that seems to predict eps"),
    "nothing tells": (unet() | LINEAR, {}, "2.x checkpoint, not an ARTV"),
}


@pytest.mark.parametrize(("tensors", "metadata", "words"), PREDICTIONS.values(), ids=PREDICTIONS)
def test_what_a_base_predicts_is_told(tensors: Tensors, metadata: dict[str, str], words: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "base.safetensors", tensors, metadata)
    assert words in refusal(lambda: describe_checkpoint(path))
    assert "(without VAE and text encoder)" in refusal(lambda: describe_checkpoint(path))
    small = SMALL_SD1 if "1.x" in refusal(lambda: describe_checkpoint(path)) else SMALL_SD
    for kind in ("eps", "v"):
        config = dataclasses.replace(small, schedule=dataclasses.replace(small.schedule, prediction=kind))
        warning = prediction_warning(path, config)
        differs = "predict" in words and (f"predict {kind}" not in words and f"predicts {kind}" not in words)
        if differs or "SNR" in words:
            assert warning is not None
            assert "train with prediction = " in warning
        else:
            assert warning is None


def test_a_header_that_was_renamed_reads_the_files_own_tensors(usual: Tensors, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", SAME["sgm"](usual))
    keys = open_tensor_file(path).tensors
    assert any(key.startswith("conditioner.") for key in keys)
    assert keys.keys() == load_file(path).keys()
