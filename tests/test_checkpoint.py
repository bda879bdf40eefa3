"""Checkpoint files: what is written comes back, what does not fit is refused in one line, and nothing is unpickled."""

import dataclasses
import functools
import json
import pickle
import resource
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from artv_core.checkpoint import (
    PARTS,
    default_name,
    describe_checkpoint,
    initialise_from_stable_diffusion,
    load_checkpoint,
    names,
    read_part,
    resolve_checkpoint,
    save_checkpoint,
    shipped,
    shipped_checkpoint,
)
from artv_core.commands.info import info_lines
from artv_core.config import (
    AdapterConfig,
    AnchorConfig,
    ARTVConfig,
    NetworkConfig,
    TextConfig,
    UNetConfig,
    VAEConfig,
    preset,
)
from artv_core.files.tensor_file import open_tensor_file
from artv_core.models import artv
from artv_core.models.artv import ARTV
from artv_core.models.autoencoder_kl import AutoencoderKL
from artv_core.models.unet import UNet

UNET = UNetConfig(
    model_channels=16,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_levels=(0, 1),
    head_channels=8,
    context_dim=16,
    norm_groups=8,
)
NETWORK = NetworkConfig(UNET, AdapterConfig(num_blocks=1), AnchorConfig(patch_size=2, grid=2, width=16))
MASK = dataclasses.replace(NETWORK, unet=dataclasses.replace(UNET, out_channels=1))
SMALL = ARTVConfig(
    name="small",
    noise=NETWORK,
    mask=MASK,
    vae=VAEConfig(kind="taesd", scale=1.0),
    text=TextConfig(width=16, layers=2, heads=2, context_length=8),
    size=(64, 64),
)
SMALL_SD = dataclasses.replace(SMALL, vae=VAEConfig())
UNET_SD1 = dataclasses.replace(UNET, num_heads=4, linear_projections=False)
SMALL_SD1 = dataclasses.replace(
    SMALL_SD,
    noise=dataclasses.replace(NETWORK, unet=UNET_SD1),
    text=dataclasses.replace(SMALL.text, layer="last", activation="quick_gelu", pad_with_end=True),
)

TO_PUBLIC = {
    "noise.diffusion_model.": "model.diffusion_model.",
    "vae.": "first_stage_model.",
    "text.": "cond_stage_model.",
}


@pytest.fixture(autouse=True)
def small_kl_vae(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artv, "AutoencoderKL", functools.partial(AutoencoderKL, channels=8, norm_groups=8))


@pytest.fixture(scope="module")
def model() -> ARTV:
    return randomised(ARTV(SMALL), seed=0)


@pytest.fixture(scope="module")
def whole(model: ARTV, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "small.safetensors"
    save_checkpoint(model, path, dtype=torch.float32)
    return path.read_bytes()


@pytest.fixture
def path(whole: bytes, tmp_path: Path) -> Path:
    """The model in a file of the test's own."""
    (tmp_path / "small.safetensors").write_bytes(whole)
    return tmp_path / "small.safetensors"


def randomised(model: ARTV, seed: int) -> ARTV:
    """`model` with no weight at zero, so that a tensor that was not loaded shows."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.02)
    return model


def public_tensors(config: ARTVConfig, seed: int) -> dict[str, Tensor]:
    """Noise UNet without branches, VAE and text encoder under the keys of a public SD 2.x file."""
    source = randomised(ARTV(config, mask=False), seed)
    plain = {f"noise.diffusion_model.{key}" for key in UNet(config.noise.unet).state_dict()}
    return {
        new + key.removeprefix(old): tensor
        for key, tensor in source.state_dict().items()
        for old, new in TO_PUBLIC.items()
        if key.startswith(old) and (key in plain or not key.startswith("noise."))
    }


def public_sd1_file(path: Path, seed: int, encoder: CLIPTextModel, inner: str = "text_model.") -> Path:
    """A file with the keys of a public SD 1.x one, whose text encoder is transformers' own."""
    tensors = {k: v for k, v in public_tensors(SMALL_SD1, seed).items() if not k.startswith("cond_stage_model.")}
    for key, tensor in encoder.state_dict().items():
        tensors[f"cond_stage_model.transformer.{inner}{key.removeprefix('text_model.')}"] = tensor
    extras = {
        "alphas_cumprod": torch.zeros(10),
        f"cond_stage_model.transformer.{inner}embeddings.position_ids": torch.arange(8)[None],
    }
    save_file(tensors | extras, path)
    return path


@pytest.fixture(scope="module")
def sd1_encoder() -> CLIPTextModel:
    """transformers' text encoder, of the size in `SMALL_SD1`, with random weights."""
    config = CLIPTextConfig(
        hidden_size=16,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
        vocab_size=49408,
    )
    torch.manual_seed(0)
    encoder = CLIPTextModel(config).eval()
    for parameter in encoder.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return encoder


def public_sd_file(path: Path, seed: int, **changes: Tensor) -> Path:
    """A file with the keys of a public SD 2.x one, small, with what such files carry besides the weights."""
    tensors = public_tensors(SMALL_SD, seed)
    extras = {
        "betas": torch.zeros(10),
        "alphas_cumprod": torch.zeros(10),
        "alphas_cumprod_prev": torch.zeros(10),
        "sqrt_alphas_cumprod": torch.zeros(10),
        "sqrt_one_minus_alphas_cumprod": torch.zeros(10),
        "sqrt_recip_alphas_cumprod": torch.zeros(10),
        "sqrt_recipm1_alphas_cumprod": torch.zeros(10),
        "log_one_minus_alphas_cumprod": torch.zeros(10),
        "posterior_mean_coef1": torch.zeros(10),
        "posterior_variance": torch.zeros(10),
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(3),
        "model_ema.diffusion_modelinput_blocks00weight": torch.zeros(3),
        "cond_stage_model.model.logit_scale": torch.tensor(4.6),
        "cond_stage_model.model.text_projection": torch.zeros(16, 16),
        "cond_stage_model.model.position_ids": torch.arange(8)[None],
    }
    save_file({**tensors, **extras, **changes}, path)
    return path


def rewrite(path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], object]) -> Path:
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(path)
    change(tensors, metadata)
    save_file(tensors, path, metadata)
    return path


def refusal(call: Callable[[], object], kind: type[Exception] = ValueError) -> str:
    """What `call` is refused with: one line."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert len(message) < 2000
    return message


def same(first: ARTV, second: ARTV) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


# Round trips


def test_round_trip_is_exact_in_float32(model: ARTV, path: Path) -> None:
    loaded = load_checkpoint(path)
    assert loaded.config == SMALL
    assert same(loaded, model)
    assert not loaded.training
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])


def test_round_trip_in_float16(model: ARTV, tmp_path: Path) -> None:
    save_checkpoint(model, tmp_path / "half.safetensors")
    loaded = load_checkpoint(tmp_path / "half.safetensors").state_dict()
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded[key], tensor.half().float())
    halves = load_checkpoint(tmp_path / "half.safetensors", dtype=torch.float16)
    assert {parameter.dtype for parameter in halves.parameters()} == {torch.float16}


def test_keys_are_the_documented_ones(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        keys = set(file.keys())
        metadata = file.metadata()
    assert {
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.reference_level_embed.0.weight",
        "reference_adapter.conv_in.weight",
        "anchor_encoder.patches.weight",
        "mask_model.diffusion_model.out.2.weight",
        "mask_model.reference_adapter.conv_in.weight",
        "taesd_encoder.0.weight",
        "taesd_decoder.1.weight",
        "vae_scale",
        "vae_shift",
        "cond_stage_model.model.token_embedding.weight",
        "null_context",
    } <= keys
    assert ARTVConfig.from_json(metadata["artv_config"]) == SMALL
    assert metadata["format"] == "pt"


def test_kl_vae_keys_and_scale(tmp_path: Path) -> None:
    model = randomised(ARTV(SMALL_SD, text=False), seed=1)
    save_checkpoint(model, tmp_path / "kl.safetensors", dtype=torch.float32)
    with safe_open(tmp_path / "kl.safetensors", framework="pt") as file:
        assert "first_stage_model.post_quant_conv.weight" in file.keys()  # noqa: SIM118
        assert "vae_scale" not in file.keys()  # noqa: SIM118
    loaded = load_checkpoint(tmp_path / "kl.safetensors")
    assert loaded.text is None
    images = torch.rand(2, 3, 16, 24)
    latents = loaded.encode_images(images)
    assert latents.shape == (2, 4, 2, 3)
    assert torch.allclose(latents, loaded.vae.encode(images) * 0.18215)
    assert torch.allclose(loaded.decode_latents(latents), loaded.vae.decode(loaded.vae.encode(images)), atol=1e-5)


def test_the_host_reads_scale_and_shift_as_scalars(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, mask=None, vae=VAEConfig(kind="taesd", scale=0.5, shift=0.25))
    model = ARTV(config, text=False)
    save_checkpoint(model, tmp_path / "scaled.safetensors")
    tensors = load_file(tmp_path / "scaled.safetensors")
    assert (tensors["vae_scale"].item(), tensors["vae_shift"].item()) == (0.5, 0.25)
    assert tensors["vae_scale"].shape == ()
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(model.encode_images(images), model.vae.encode(images))


def test_extra_metadata_travels(model: ARTV, tmp_path: Path) -> None:
    save_checkpoint(model, tmp_path / "a.safetensors", extra_metadata={"steps": "100"})
    assert describe_checkpoint(tmp_path / "a.safetensors").metadata == {"steps": "100"}
    assert "artv_config" in refusal(
        lambda: save_checkpoint(model, tmp_path / "b.safetensors", extra_metadata={"artv_config": "{}"})
    )


# Part of a model, and its base


def test_a_part_takes_the_rest_from_a_public_file(tmp_path: Path) -> None:
    base = public_sd_file(tmp_path / "v2.safetensors", seed=2)
    trained = ARTV(SMALL_SD)
    assert initialise_from_stable_diffusion(trained, base) == ("unet", "vae", "text")
    for tensor in (*trained.mask.state_dict().values(), *trained.noise.reference_adapter.state_dict().values()):
        tensor.add_(0.01)
    part = tmp_path / "part.safetensors"
    save_checkpoint(trained, part, dtype=torch.float32, parts=("branches", "mask"), base="v2.safetensors")
    assert part.stat().st_size < base.stat().st_size / 2

    assert same(load_checkpoint(part, base=base), trained)
    message = refusal(lambda: load_checkpoint(part))
    assert "v2.safetensors" in message
    assert "name a base checkpoint" in message
    assert "unet" in refusal(lambda: save_checkpoint(trained, part, parts=("branches",)))
    assert "'words'" in refusal(lambda: save_checkpoint(trained, part, parts=("words",), base="x"))


def test_a_base_must_hold_what_is_needed(model: ARTV, path: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.safetensors"
    save_checkpoint(model, part, parts=("mask",), base="small.safetensors")
    assert load_checkpoint(part, base=path).text is not None
    public = public_sd_file(tmp_path / "v2.safetensors", seed=2)
    assert "branches either" in refusal(lambda: load_checkpoint(part, base=public))


OTHER_SETTINGS: dict[str, tuple[str, dict, dict]] = {
    "unet": ("schedule.prediction", {"prediction": "v"}, {}),
    "branches": ("schedule.beta_end", {"beta_end": 0.02}, {}),
    "mask": ("schedule.static_noise", {"static_noise": "subtracted"}, {}),
    "vae": ("vae", {}, {"vae": dataclasses.replace(SMALL.vae, shift=3.0)}),
    "text": ("text", {}, {"text": dataclasses.replace(SMALL.text, activation="quick_gelu")}),
}


@pytest.mark.parametrize("part", OTHER_SETTINGS)
def test_an_artv_base_must_have_the_settings_of_what_it_gives(
    model: ARTV, path: Path, tmp_path: Path, part: str
) -> None:
    """The shapes are the same, but the weights mean something else. What it need not give may differ."""
    setting, schedule, others = OTHER_SETTINGS[part]
    other = dataclasses.replace(SMALL, schedule=dataclasses.replace(SMALL.schedule, **schedule), **others)
    base = Path(shutil.copy(path, tmp_path / "base.safetensors"))
    rewrite(base, lambda _, metadata: metadata.update(artv_config=other.to_json()))

    lacking = without(model, part, tmp_path / "lacking.safetensors")
    told = f"base.safetensors cannot be the base of {lacking}: its {PARTS[part]} is for another {setting}; take"
    for read in (load_checkpoint, functools.partial(read_part, part=part)):
        assert told in refusal(lambda: read(lacking, base=base))  # noqa: B023 (called at once)
    assert same(load_checkpoint(lacking, base=path), model)
    having = without(model, "vae" if part == "text" else "text", tmp_path / "having.safetensors")
    assert same(load_checkpoint(having, base=base), model)


def without(model: ARTV, part: str, path: Path) -> Path:
    parts = [name for name in PARTS if name not in (part, "lora")]
    save_checkpoint(model, path, dtype=torch.float32, parts=parts, base="small.safetensors")
    return path


def test_the_host_scale_of_a_base_must_agree_too(model: ARTV, path: Path, tmp_path: Path) -> None:
    part = without(model, "vae", tmp_path / "part.safetensors")
    rewrite(path, lambda tensors, _: tensors.update(vae_scale=torch.tensor(2.0)))
    for read in (load_checkpoint, functools.partial(read_part, part="vae")):
        assert "vae_scale is [2.0], artv_config says 1.0" in refusal(lambda: read(part, base=path))  # noqa: B023


def test_a_base_gives_only_what_the_configuration_can_use(path: Path, tmp_path: Path) -> None:
    """No VAE of another kind, and no mask network where the configuration has none."""
    part = tmp_path / "part.safetensors"
    save_checkpoint(ARTV(SMALL), part, parts=("branches", "mask"), base="v2.safetensors")
    loaded = load_checkpoint(part, base=public_sd_file(tmp_path / "v2.safetensors", seed=2))
    assert loaded.vae is None
    assert loaded.text is not None
    maskless = ARTV(dataclasses.replace(SMALL, mask=None))
    save_checkpoint(maskless, part, parts=("branches",), base="small.safetensors")
    loaded = load_checkpoint(part, base=path)
    assert loaded.mask is None
    assert loaded.vae is not None


def test_missing_optional_parts_are_none_and_say_so(model: ARTV, tmp_path: Path) -> None:
    part = tmp_path / "networks.safetensors"
    save_checkpoint(model, part, parts=("unet", "branches"))
    loaded = load_checkpoint(part)
    assert (loaded.mask, loaded.vae, loaded.text) == (None, None, None)
    assert "no VAE" in refusal(lambda: loaded.encode_images(torch.rand(1, 3, 8, 8)))
    assert "no VAE" in refusal(lambda: loaded.decode_latents(torch.rand(1, 4, 8, 8)))
    assert "name a base checkpoint" in refusal(lambda: loaded.encode_text(["a star"]))


def test_parts_can_be_left_out(path: Path) -> None:
    loaded = load_checkpoint(path, without=("text", "vae"))
    assert loaded.text is None
    assert loaded.vae is None
    assert loaded.mask is not None
    assert "accepted are lora, mask, vae, text" in refusal(lambda: load_checkpoint(path, without=("unet",)))


# Initialising from Stable Diffusion


def test_initialise_leaves_the_branches_alone(tmp_path: Path) -> None:
    model = ARTV(SMALL_SD)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    public = public_sd_file(tmp_path / "v2.safetensors", seed=3)
    initialise_from_stable_diffusion(model, public)
    tensors = load_file(public)
    for key, tensor in model.state_dict().items():
        source = key
        for inside, outside in TO_PUBLIC.items():
            source = source.replace(inside, outside) if source.startswith(inside) else source
        if key == "null_context":
            assert torch.equal(tensor, model.encode_text([""])[0])
        elif source in tensors:
            assert torch.equal(tensor, tensors[source]), key
        else:
            assert torch.equal(tensor, before[key]), key
            assert key.startswith(("mask.", "noise."))


def test_branch_names_are_what_a_plain_unet_lacks() -> None:
    with torch.device("meta"):
        ours = {f"model.diffusion_model.{key}" for key in UNet(UNET, anchor_width=16).state_dict()}
        plain = {f"model.diffusion_model.{key}" for key in UNet(UNET).state_dict()}
    assert {key for key in ours if names.part_of(key) == "branches"} == ours - plain
    assert {names.part_of(key) for key in plain} == {"unet"}


def test_initialise_is_strict(tmp_path: Path, path: Path) -> None:
    model = ARTV(SMALL_SD, text=False, vae=False)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    stem = "model.diffusion_model.input_blocks.0.0.weight"
    wider = public_sd_file(tmp_path / "a.safetensors", 4, **{stem: torch.zeros(24, 4, 3, 3)})
    message = refusal(lambda: initialise_from_stable_diffusion(model, wider))
    assert f"{stem} (got [24, 4, 3, 3], expected [16, 4, 3, 3])" in message
    strange = public_sd_file(tmp_path / "b.safetensors", 4, **{"model.diffusion_model.strange": torch.zeros(1)})
    assert "1 unexpected keys: model.diffusion_model.strange" in refusal(
        lambda: initialise_from_stable_diffusion(model, strange)
    )
    assert "ARTV checkpoint" in refusal(lambda: initialise_from_stable_diffusion(model, path))
    older = public_sd_file(tmp_path / "c.safetensors", 4, **{"cond_stage_model.transformer.x": torch.zeros(1)})
    assert "Stable Diffusion 1.x" in refusal(lambda: initialise_from_stable_diffusion(model, older))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_initialise_fills_only_what_is_asked_for_in_its_own_types(tmp_path: Path) -> None:
    public = public_sd_file(tmp_path / "v2.safetensors", seed=3)
    model = ARTV(SMALL_SD)
    model.noise.bfloat16()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert initialise_from_stable_diffusion(model, public, parts=("unet",)) == ("unet",)
    tensors = load_file(public)
    for key, tensor in model.state_dict().items():
        source = tensors.get("model." + key.removeprefix("noise.")) if key.startswith("noise.") else None
        assert torch.equal(tensor, before[key] if source is None else source.bfloat16()), key
    model.text.bfloat16()
    assert initialise_from_stable_diffusion(model, public, parts=("text", "vae")) == ("vae", "text")
    assert torch.equal(model.vae.post_quant_conv.weight, tensors["first_stage_model.post_quant_conv.weight"])
    assert torch.equal(model.null_context, model.encode_text([""])[0])
    assert model.text.model.ln_final.weight.dtype == torch.bfloat16
    assert "cannot fill 'mask' from a public file: this model takes unet, vae, text" in refusal(
        lambda: initialise_from_stable_diffusion(model, public, parts=("mask",))
    )
    assert "this model takes unet, text" in refusal(
        lambda: initialise_from_stable_diffusion(ARTV(SMALL), public, parts=("vae",))
    )


# Stable Diffusion 1.x


@pytest.mark.parametrize("inner", ["text_model.", ""], ids=["public", "merged"])
def test_sd1_text_encoder_is_transformers_own(sd1_encoder: CLIPTextModel, tmp_path: Path, inner: str) -> None:
    public = public_sd1_file(tmp_path / "v1.safetensors", 2, sd1_encoder, inner)
    model = ARTV(SMALL_SD1)
    assert initialise_from_stable_diffusion(model, public) == ("unet", "vae", "text")
    tokens = model.text.tokenize(["a star", "one two three four five six seven eight"])
    with torch.no_grad():
        got, expected = model.text(tokens), sd1_encoder(tokens).last_hidden_state
    assert expected.std() > 0.1
    assert ((got - expected).abs().max() / expected.abs().max()).item() < 1e-5
    tensors = load_file(public)
    unet = model.noise.diffusion_model.state_dict()
    for key in UNet(UNET_SD1).state_dict():
        assert torch.equal(unet[key], tensors[f"model.diffusion_model.{key}"]), key


def test_sd1_trained_part_loads_beside_its_base(sd1_encoder: CLIPTextModel, tmp_path: Path) -> None:
    base = public_sd1_file(tmp_path / "v1-5.safetensors", 2, sd1_encoder)
    trained = ARTV(SMALL_SD1)
    initialise_from_stable_diffusion(trained, base)
    for tensor in (*trained.mask.state_dict().values(), *trained.noise.reference_adapter.state_dict().values()):
        tensor.add_(0.01)
    part = tmp_path / "part.safetensors"
    save_checkpoint(trained, part, dtype=torch.float32, parts=("branches", "mask"), base="v1-5.safetensors")
    loaded = load_checkpoint(part, base=base)
    assert loaded.config == SMALL_SD1
    assert same(loaded, trained)
    halves = load_checkpoint(part, base=base, dtype=torch.bfloat16).text.state_dict()
    assert all(torch.equal(halves[key], tensor.bfloat16()) for key, tensor in trained.text.state_dict().items())

    whole = tmp_path / "whole.safetensors"
    save_checkpoint(trained, whole, dtype=torch.float32)
    assert same(load_checkpoint(whole), trained)
    assert "cond_stage_model.model.transformer.resblocks.1.attn.in_proj_weight" in load_file(whole)
    from_base, from_whole = (read_part(path, "text") for path in (base, whole))
    extra = "cond_stage_model.model.embeddings.position_ids"
    assert from_base.keys() - from_whole.keys() == {extra}
    assert all(torch.equal(from_base[key], tensor) for key, tensor in from_whole.items())


def test_the_family_must_be_the_models(sd1_encoder: CLIPTextModel, tmp_path: Path) -> None:
    bases = {
        "1.x": public_sd1_file(tmp_path / "v1.safetensors", 2, sd1_encoder),
        "2.x": public_sd_file(tmp_path / "v2.safetensors", 2),
    }
    unet_only = tmp_path / "unet.safetensors"
    save_file({k: v for k, v in load_file(bases["1.x"]).items() if k.startswith("model.")}, unet_only)
    part = tmp_path / "part.safetensors"
    for config, wanted, given in ((SMALL_SD, "2.x", "1.x"), (SMALL_SD1, "1.x", "2.x")):
        model = ARTV(config)
        words = f"is a Stable Diffusion {given} checkpoint; "
        needs = f"needs a Stable Diffusion {wanted} checkpoint"
        message = refusal(lambda: initialise_from_stable_diffusion(model, bases[given]))  # noqa: B023 (called at once)
        assert words + "this model " + needs in message
        save_checkpoint(model, part, parts=("branches", "mask"), base="base.safetensors")
        for read in (load_checkpoint, functools.partial(read_part, part="text")):
            message = refusal(lambda: read(part, base=bases[given]))  # noqa: B023
            assert f"{bases[given]} {words}{part} {needs} as its base" in message
        assert load_checkpoint(part, base=bases[wanted]).text is not None
    model = ARTV(SMALL_SD1)
    assert initialise_from_stable_diffusion(model, unet_only, parts=("unet",)) == ("unet",)
    assert "1.x" in refusal(lambda: initialise_from_stable_diffusion(ARTV(SMALL_SD), unet_only, parts=("unet",)))


def test_a_vae_may_come_from_the_other_family(sd1_encoder: CLIPTextModel, tmp_path: Path) -> None:
    model, part = ARTV(SMALL_SD), tmp_path / "part.safetensors"
    save_checkpoint(model, part, parts=("unet", "branches", "mask", "text"))
    base = public_sd1_file(tmp_path / "v1.safetensors", 2, sd1_encoder)
    weight = load_file(base)["first_stage_model.quant_conv.weight"]
    assert torch.equal(load_checkpoint(part, base=base).vae.quant_conv.weight, weight)


def test_sd1_is_strict(sd1_encoder: CLIPTextModel, tmp_path: Path) -> None:
    public = public_sd1_file(tmp_path / "v1.safetensors", 2, sd1_encoder)
    tensors, stem = load_file(public), "cond_stage_model.transformer.text_model.encoder.layers.1."
    tensors[f"{stem}self_attn.extra.weight"] = tensors.pop(f"{stem}self_attn.k_proj.weight")
    tensors[f"{stem}mlp.fc1.weight"] = torch.zeros(3, 3)
    save_file(tensors, public)
    message = refusal(lambda: initialise_from_stable_diffusion(ARTV(SMALL_SD1), public))
    assert f"1 missing keys: {stem}self_attn.k_proj.weight" in message
    assert f"1 unexpected keys: {stem}self_attn.extra.weight" in message
    assert f"{stem}mlp.fc1.weight (got [3, 3], expected [64, 16])" in message
    tensors[f"{stem}self_attn.k_proj.weight"] = torch.zeros(16, 3)
    save_file(tensors, public)
    assert "queries, keys and values differ in shape" in refusal(lambda: read_part(public, "text"))


# Strictness


def test_missing_unexpected_and_misshapen_keys_are_named(path: Path) -> None:
    def spoil(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        for index in range(6):
            del tensors[f"cond_stage_model.model.{'transformer.resblocks.0.' if index < 4 else ''}" + SPOILED[index]]
        tensors["surprise"] = torch.zeros(2)
        tensors["null_context"] = torch.zeros(3, 3)
        tensors["reference_adapter.conv_in.weight"] = tensors["reference_adapter.conv_in.weight"].to(torch.int32)

    message = refusal(lambda: load_checkpoint(rewrite(path, spoil)))
    assert "6 missing keys: cond_stage_model.model." in message
    assert "and 2 more" in message
    assert "1 unexpected keys: surprise" in message
    assert "null_context (got [3, 3], expected [8, 16])" in message
    assert "reference_adapter.conv_in.weight (got I32, expected F16, BF16, F32)" in message


SPOILED = ("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias", "ln_final.weight", "ln_final.bias")


def test_public_extras_are_not_accepted_in_our_own_files(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update(betas=torch.zeros(3)))
    assert "unexpected keys: betas" in refusal(lambda: load_checkpoint(path))


def test_a_part_that_is_declared_must_be_there(path: Path) -> None:
    def drop(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        for key in [key for key in tensors if key.startswith("mask_model.")]:
            del tensors[key]

    assert "missing keys: mask_model." in refusal(lambda: load_checkpoint(rewrite(path, drop)))


def test_host_scale_must_agree_with_the_configuration(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update(vae_scale=torch.tensor(2.0)))
    assert "vae_scale is [2.0], artv_config says 1.0" in refusal(lambda: load_checkpoint(path))


# Files that are something else


def header(text: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + body


class Malicious:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return pytest.fail, ("a pickle was opened",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\x05", "not a safetensors file"),
        (b"PK\x03\x04" + bytes(100), "zip archive"),
        (pickle.dumps(Malicious(), protocol=2), "pickle"),
        (pickle.dumps(Malicious(), protocol=4), "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b"GGUF" + bytes(60), "GGUF"),
        (b"<!doctype html><html>", "web page"),
        (b"\x89PNG\r\n\x1a\n" + bytes(60), "not a safetensors file"),
        (struct.pack("<Q", 2**40) + b"{}", f"claims {2**40} bytes"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "claims"),
        (struct.pack("<Q", 500) + b"{}", "truncated"),
        (header(b"{}"), "without tensors"),
        (header(b"{garbage"), "damaged"),
        (header(b'{"\xff": 1}'), "damaged"),
        (header(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "recursion limit"),
        (header(b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}', bytes(4)), "damaged"),
        (
            header(b'{"a": {"dtype": "F32", "shape": [4611686018427387904, 9], "data_offsets": [0, 4]}}', bytes(4)),
            "damaged",
        ),
        (header(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', bytes(2)), "its length"),
        (header(b'{"a\\n\\u001bb": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', bytes(4)), "another kind"),
    ],
)
def test_foreign_and_damaged_files(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    for read in (load_checkpoint, describe_checkpoint, open_tensor_file):
        if read is not open_tensor_file or words not in ("without tensors", "another kind"):
            message = refusal(functools.partial(read, path))
            assert words in message
            assert str(path) in message


def test_truncated_anywhere(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    for length in (1, 7, 8, 9, 1000, len(whole) // 2, len(whole) - 1):
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(whole[:length])
        assert str(cut) in refusal(lambda: load_checkpoint(cut))  # noqa: B023 (called at once)


def test_what_is_not_a_file(tmp_path: Path) -> None:
    assert "no such file" in refusal(lambda: load_checkpoint(tmp_path / "absent.safetensors"))
    assert "is a folder" in refusal(lambda: load_checkpoint(tmp_path))
    assert "not an ordinary file" in refusal(lambda: load_checkpoint("/dev/zero"))
    assert "too long" in refusal(lambda: load_checkpoint("x" * 300))
    assert "null" in refusal(lambda: load_checkpoint("x\0"))


@pytest.mark.parametrize("name", ["UPPER.SAFETENSORS", "Mixed.SafeTensors", "short.sft", "SHORT.SFT", "none"])
def test_a_file_is_read_whatever_its_ending(path: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(path.read_bytes())
    assert resolve_checkpoint(tmp_path / name) == tmp_path / name
    assert describe_checkpoint(tmp_path / name).config == describe_checkpoint(path).config


@pytest.mark.parametrize("read", [load_checkpoint, describe_checkpoint, open_tensor_file, resolve_checkpoint])
def test_a_broken_link_is_said_to_be_one_and_where_it_points(tmp_path: Path, read: Callable[[Path], object]) -> None:
    link, folder = tmp_path / "link.safetensors", tmp_path / "folder"
    link.symlink_to(tmp_path / "drive" / "gone.safetensors")
    folder.symlink_to(tmp_path / "drive", target_is_directory=True)
    told = f"{link} is a broken link: it points to {tmp_path.resolve() / 'drive' / 'gone.safetensors'}, and there is no"
    assert refusal(lambda: read(link)).startswith(told)
    told = f"{folder} is a broken link: it points to {tmp_path.resolve() / 'drive'}, and there is no such file"
    assert refusal(lambda: read(folder / "inner.safetensors")).startswith(told)


def test_a_header_that_claims_a_terabyte_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    path.write_bytes(struct.pack("<Q", 10**12) + b'{"a": 1}')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    refusal(lambda: load_checkpoint(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "Stable Diffusion 2.x checkpoint, not an ARTV"),
        ("cond_stage_model.transformer.text_model.x", "Stable Diffusion 1.x"),
        ("conditioner.embedders.0.x", "SDXL"),
        ("first_stage_model.decoder.x", "a VAE"),
        ("lora_unet_x.lora_up.weight", "LoRA"),
        ("layers.0.weight", "another kind (first key: layers.0.weight)"),
    ],
)
def test_safetensors_of_another_kind(key: str, words: str, tmp_path: Path) -> None:
    save_file({key: torch.zeros(2)}, tmp_path / "other.safetensors")
    message = refusal(lambda: load_checkpoint(tmp_path / "other.safetensors"))
    assert words in message
    assert ("can be the base of one" in message) == ("Stable Diffusion" in words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        ("[" * 200_000, "not valid JSON"),
        ("[]", "expected an object"),
        ('{"name": 3}', "artv_config.name"),
        ('{"nonsense": 3}', "unknown field"),
        (json.dumps({"n" * 100_000: 1}), "unknown field"),
        ('{"vae": {"kind": "vq"}}', "vae.kind"),
        ('{"text": {"heads": 0}}', "artv_config"),
        ('{"noise": {"unet": {"norm_groups": 0}}}', "small.safetensors"),
        ('{"noise": {"unet": {"head_channels": 0}}}', "small.safetensors"),
        ('{"noise": {"unet": {"in_channels": -4}}}', "small.safetensors"),
        ('{"fps": ' + "9" * 5000 + "}", "small.safetensors"),
        ('{"text": {"heads": 5}}', "not a multiple"),
        ('{"text": {"activation": "relu"}}', "text.activation: got 'relu', accepted are gelu, quick_gelu"),
        ('{"noise": {"unet": {"num_heads": 7}}}', "320 is not a multiple of num_heads 7"),
        ('{"noise": {"unet": {"num_heads": -8}}}', "num_heads: got -8"),
        ('{"noise": {"unet": {"linear_projections": 0}}}', "expected bool, got 0"),
        ('{"schedule": {"zero_terminal_snr": true}}', "zero_terminal_snr needs 'v'"),
        ('{"text": {"width": 512}}', "differs"),
        ('{"vae": {"latent_channels": 16}}', "got 4, the rest of the configuration needs 16"),
    ],
)
def test_invalid_configurations(text: str, words: str, path: Path) -> None:
    rewrite(path, lambda _, metadata: metadata.update(artv_config=text))
    message = refusal(lambda: load_checkpoint(path))
    assert words in message
    assert str(path) in message


def test_json_has_new_fields_only_where_they_are_used() -> None:
    """So older releases still read what they can build, and journals of earlier runs go on."""
    new = ("num_heads", "linear_projections", "activation", "pad_with_end", "zero_terminal_snr")
    for name in ("tiny", "sd21"):
        assert not any(field in preset(name).to_json() for field in new)
    config = preset("sd15")
    schedule = dataclasses.replace(config.schedule, prediction="v", zero_terminal_snr=True)
    config = dataclasses.replace(config, schedule=schedule)
    assert all(field in config.to_json() for field in new)
    assert ARTVConfig.from_json(config.to_json()) == config


def test_invalid_parts(path: Path) -> None:
    rewrite(path, lambda _, metadata: metadata.update(artv_parts="unet,kitchen"))
    assert "'kitchen'" in refusal(lambda: load_checkpoint(path))


# Writing


def test_nothing_is_left_where_writing_fails(model: ARTV, path: Path, tmp_path: Path) -> None:
    assert "no folder" in refusal(lambda: save_checkpoint(model, tmp_path / "absent" / "a.safetensors"))
    assert "a folder" in refusal(lambda: save_checkpoint(model, tmp_path))
    assert "not an ordinary file" in refusal(lambda: save_checkpoint(model, "/dev/null"))
    assert "no folder" in refusal(lambda: save_checkpoint(model, path / "a.safetensors"))
    assert "too long" in refusal(lambda: save_checkpoint(model, tmp_path / ("x" * 300)))
    assert list(tmp_path.iterdir()) == [path]
    assert same(load_checkpoint(path), model)


def test_a_full_disk_keeps_the_file_that_was_there(model: ARTV, path: Path) -> None:
    """A limit on the size of files stops the writing half way, as a full disk does."""
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        message = refusal(lambda: save_checkpoint(model, path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert message.startswith(f"cannot write {path}: File too large")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_weights_that_do_not_fit_the_type_are_not_saved(path: Path, tmp_path: Path) -> None:
    model = load_checkpoint(path)
    model.null_context[0, 0] = 1e6
    message = refusal(lambda: save_checkpoint(model, tmp_path / "a.safetensors"))
    assert "null_context" in message
    assert "torch.float16" in message
    assert not (tmp_path / "a.safetensors").exists()


def test_permissions_follow_the_umask(model: ARTV, tmp_path: Path) -> None:
    path, reference = tmp_path / "small.safetensors", tmp_path / "reference"
    save_checkpoint(model, path)
    reference.touch()
    assert path.stat().st_mode == reference.stat().st_mode


# Describing and finding


def test_describe(model: ARTV, path: Path, tmp_path: Path) -> None:
    summary = describe_checkpoint(path)
    assert summary.config == SMALL
    assert summary.parts == ("unet", "branches", "mask", "vae", "text")
    assert summary.parameters["unet"] == sum(tensor.numel() for tensor in UNet(UNET).state_dict().values())
    assert sum(summary.parameters.values()) == sum(tensor.numel() for tensor in model.state_dict().values())
    assert summary.file_bytes == path.stat().st_size
    assert summary.dtypes == ("F32",)
    assert summary.missing == ()

    save_checkpoint(model, tmp_path / "part.safetensors", parts=("branches",), base="small.safetensors")
    summary = describe_checkpoint(tmp_path / "part.safetensors")
    assert summary.base == "small.safetensors"
    assert list(summary.missing) == [
        "making frames",
        "copying from the previous frame",
        "images in and out",
        "text prompts",
    ]
    assert any("--base (small.safetensors)" in line for line in info_lines(summary))


def test_shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in (
        "tiny-v2.safetensors",
        "tiny-v10.safetensors",
        "tiny-v9.1.safetensors",
        "other-v1.safetensors",
        "x.md",
    ):
        (folder / name).touch()
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path)
    assert shipped_checkpoint("tiny") == folder / "tiny-v10.safetensors"
    assert resolve_checkpoint("other") == folder / "other-v1.safetensors"
    assert resolve_checkpoint(folder / "x.md") == folder / "x.md"
    assert "it has: other, tiny" in refusal(lambda: shipped_checkpoint("huge"))
    assert "shipped with this package: other, tiny" in refusal(lambda: resolve_checkpoint("absent"))
    assert "no such" in refusal(lambda: resolve_checkpoint("y" * 300))


def test_the_default_is_small_or_tiny_where_only_that_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert default_name() == "small"
    assert resolve_checkpoint(None) == shipped_checkpoint() == shipped_checkpoint("small")
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path)
    assert "no checkpoint 'small' comes with this package; it has: none" in refusal(shipped_checkpoint)
    for name, default in (("another-v1", "small"), ("tiny-v3", "tiny"), ("small-v2", "small")):
        (folder / f"{name}.safetensors").touch()
        assert default_name() == default
    assert resolve_checkpoint(None) == folder / "small-v2.safetensors"


# The whole


def test_image_sizes_must_fit_the_vae(model: ARTV) -> None:
    message = refusal(lambda: model.encode_images(torch.rand(1, 3, 20, 30)))
    assert "got images of 30x20, expected multiples of 8" in message
    assert "24x16" in message


def test_text_and_null_context(model: ARTV) -> None:
    assert model.encode_text(["a star", "two"]).shape == (2, 8, 16)
    model.update_null_context()
    assert torch.equal(model.null_context, model.encode_text([""])[0])


def test_sd21_is_built_without_memory_and_has_its_size() -> None:
    with torch.device("meta"):
        model = ARTV(preset("sd21"), vae=False)
    slots = names.expected_tensors(model)
    assert sum(torch.Size(slot.shape).numel() for slot in slots["unet"].values()) == 865_910_724
    assert len(slots["text"]) == 4 + 24 * 12
