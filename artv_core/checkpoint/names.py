"""Names in checkpoint files: their place in the model, their part, and the names of SD 1.x.

Keys are Stable Diffusion's own (LDM) names. Only the text encoder of SD 1.x has other names (Hugging Face's). Both are
read; SD 2.x's names are written.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import ARTVConfig, TextConfig, VAEConfig
from ..files.tensor_file import TensorFile
from ..models.artv import ARTV
from ..models.lora import DOWN, UP, changed_layers
from ..models.taesd import TAESD
from .public_files import has_weights, is_extra

PARTS = {
    "unet": "noise UNet",
    "lora": "low-rank changes of the noise UNet",
    "branches": "reference adapter, anchor and noise-level branches",
    "mask": "mask network",
    "vae": "VAE",
    "text": "text encoder",
}
"""The parts of a file. "unet" has the weights that a public SD file has too, "branches" those that ARTV adds. "lora"
(`models.lora`) is in files without "unet" only."""

OPTIONAL_PARTS = ("lora", "mask", "vae", "text")
OWN_METADATA = ("format", "artv_config", "artv_parts", "artv_base")
"""Names in the metadata that are reserved for the checkpoint itself."""

_MODEL_TO_FILE = (
    ("noise.diffusion_model.", "model.diffusion_model."),
    ("noise.reference_adapter.", "reference_adapter."),
    ("noise.anchor_encoder.", "anchor_encoder."),
    ("mask.", "mask_model."),
    ("vae.taesd_", "taesd_"),
    ("vae.", "first_stage_model."),
    ("text.", "cond_stage_model."),
    ("null_context", "null_context"),
)
_FILE_TO_PART = (
    ("model.diffusion_model.", "unet"),
    ("reference_adapter.", "branches"),
    ("anchor_encoder.", "branches"),
    ("null_context", "branches"),
    ("mask_model.", "mask"),
    ("first_stage_model.", "vae"),
    ("taesd_encoder.", "vae"),
    ("taesd_decoder.", "vae"),
    ("vae_scale", "vae"),
    ("vae_shift", "vae"),
    ("cond_stage_model.", "text"),
)
_UNET_BRANCH = re.compile(r"\.(anchor_to_[a-z]+|reference_level_embed|anchor_level_embed)\.")
_LORA = (f".{DOWN}", f".{UP}")
_VAE_PREFIX = {"kl": "first_stage_model.", "taesd": "taesd_encoder."}


# Keys and parts


def part_of_weight(name: str) -> str:
    """The part (a name in `PARTS`) of a weight. `name` is its name in `ARTV.named_parameters`. Raises KeyError if the
    model has no such weight."""
    return part_of(file_key(name)) or ""


def file_key(model_key: str) -> str:
    """The key in a file for `model_key` in the model's state dict. Raises KeyError on an unknown key."""
    for inside, outside in _MODEL_TO_FILE:
        if model_key.startswith(inside):
            return outside + model_key.removeprefix(inside)
    raise KeyError(model_key)


def part_of(key: str) -> str | None:
    """The part (a name in `PARTS`) that a key of a file belongs to, or None."""
    for prefix, part in _FILE_TO_PART:
        if key.startswith(prefix):
            return _part_of_unet(key) if part == "unet" else part
    return None


def _part_of_unet(key: str) -> str:
    if key.endswith(_LORA):
        return "lora"
    return "branches" if _UNET_BRANCH.search(key) else "unet"


def parts_held(file: TensorFile, vae: VAEConfig | None = None) -> set[str]:
    """The parts that a file has weights for. If `vae` is given, a VAE of another kind does not count."""
    keys = [key for key in file.tensors if not is_extra(key)]
    parts = {part_of(key) or "" for key in keys}
    if vae is not None and not any(key.startswith(_VAE_PREFIX[vae.kind]) for key in keys):
        parts.discard("vae")
    return parts


def usable_parts(config: ARTVConfig, held: Collection[str] = ()) -> list[str]:
    """The parts that a model of this configuration can use. Low-rank changes count only if its file holds them: `held`
    are that file's parts."""
    unusable = {"lora"} - {*held} | ({"mask"} if config.mask is None else set())
    return [part for part in PARTS if part not in unusable]


# Tensors that a model needs from a file


@dataclass(frozen=True)
class Slot:
    """Where a tensor of a file goes in the model, and the shape that it must have."""

    model_key: str  # empty: only ComfyUI reads it
    shape: tuple[int, ...]
    third: int | None = None  # 0, 1 or 2: it fills this third of the model tensor's rows

    def place_in(self, tensor: Tensor) -> Tensor:
        """A view of the rows of the model's tensor that this tensor fills."""
        return tensor if self.third is None else tensor.chunk(3)[self.third]


def expected_tensors(model: ARTV, rank: int = 1) -> dict[str, dict[str, Slot]]:
    """For each part, the keys that a file must have, and where they go in the model. Those of the part "lora", which
    the model itself lacks, are of this `rank`."""
    expected: dict[str, dict[str, Slot]] = {part: {} for part in PARTS}
    for name, tensor in model.state_dict().items():
        key = file_key(name)
        expected[part_of(key) or ""][key] = Slot(name, tuple(tensor.shape))
    if isinstance(model.vae, TAESD):
        expected["vae"] |= {key: Slot("", ()) for key in host_scale(model.config)}
    expected["lora"] = dict(_lora_slots(model, rank))
    return expected


def _lora_slots(model: ARTV, rank: int) -> Iterator[tuple[str, Slot]]:
    for name, layer in changed_layers(model.noise.diffusion_model).items():
        stem = f"noise.diffusion_model.{name}."
        for key, shape in ((stem + DOWN, (rank, layer.in_features)), (stem + UP, (layer.out_features, rank))):
            yield file_key(key), Slot(key, shape)


def lora_rank(file: TensorFile) -> int:
    """The rank of the changes in a file, from the first one; 1 if it has none, so that they are missed."""
    shapes = (tensor.shape for key, tensor in file.tensors.items() if key.endswith(f".{DOWN}"))
    return max(1, next((shape[0] for shape in shapes if shape), 1))


def host_scale(config: ARTVConfig) -> dict[str, Tensor]:
    """Two numbers that ComfyUI needs to use a TAESD as its VAE: ComfyUI's latent = core latent / scale + shift."""
    return {"vae_scale": torch.tensor(config.vae.scale), "vae_shift": torch.tensor(config.vae.shift)}


def last_block(config: TextConfig, keys: Iterable[str], prefix: str) -> set[str]:
    """The `keys` of the text encoder's last block, if the configuration never runs it. Some public files lack it."""
    if config.layer != "penultimate":
        return set()
    last = f"{prefix}transformer.resblocks.{config.layers - 1}."
    return {key for key in keys if key.startswith(last)}


# The text encoder of SD 1.x

TEXT_PREFIX = "cond_stage_model.model."
_SD1_TEXT_PREFIXES = ("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer.")
# Parts of the text encoder's names, here and in SD 1.x. In SD 1.x, queries, keys and values are three tensors.
_SD1_TEXT_NAMES = (
    ("token_embedding.", "embeddings.token_embedding."),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("transformer.resblocks.", "encoder.layers."),
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".attn.in_proj_", ".self_attn.{}_proj."),
    (".attn.out_proj.", ".self_attn.out_proj."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
    ("ln_final.", "final_layer_norm."),
)
_SD1_QKV = re.compile(r"\.self_attn\.([qkv])_proj\.")


def sd1_text_prefix(file: TensorFile) -> str | None:
    """The prefix of the text encoder's keys if they have SD 1.x's names, else None."""
    return next((prefix for prefix in _SD1_TEXT_PREFIXES if has_weights(file, prefix)), None)


def as_named_in(file: TensorFile, expected: dict[str, dict[str, Slot]]) -> dict[str, dict[str, Slot]]:
    """The `expected` tensors under the names that a public file uses: its text encoder may have SD 1.x's names."""
    prefix = sd1_text_prefix(file)
    if prefix is None:
        return dict(expected)
    text = {prefix + name: slot for key, slot in expected["text"].items() for name, slot in _sd1_text_slots(key, slot)}
    return {**expected, "text": text}


def _sd1_text_slots(key: str, slot: Slot) -> Iterator[tuple[str, Slot]]:
    names = _sd1_text_names(key)
    if len(names) == 1:
        yield names[0], slot
        return
    for third, name in enumerate(names):
        yield name, Slot(slot.model_key, (slot.shape[0] // 3, *slot.shape[1:]), third)


def _sd1_text_names(key: str) -> list[str]:
    """SD 1.x's names, without a prefix, for a key that ARTV writes: one, or three for queries, keys and values."""
    name = key.removeprefix(TEXT_PREFIX)
    for artv, public in _SD1_TEXT_NAMES:
        name = name.replace(artv, public)
    return [name.format(letter) for letter in "qkv"] if "{}" in name else [name]


def our_text_key(key: str, prefix: str) -> tuple[str, int]:
    """Inverse of `_sd1_text_names`: the key that ARTV writes, and which third of it this is (0 if it is whole)."""
    if not key.startswith(prefix):
        return key, 0
    name = key.removeprefix(prefix)
    match = _SD1_QKV.search(name)
    third = "qkv".index(match[1]) if match else 0
    name = _SD1_QKV.sub(".self_attn.{}_proj.", name)
    for artv, public in _SD1_TEXT_NAMES:
        name = name.replace(public, artv)
    return TEXT_PREFIX + name, third
