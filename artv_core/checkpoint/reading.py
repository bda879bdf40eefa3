"""Checkpoint files: one safetensors file whose metadata says how to build what its tensors fill.

Keys are Stable Diffusion's own (LDM) names, so that a public SD 1.x or 2.x file can start a training, or be the base of
a checkpoint that holds only what was trained on top of it. Only the text encoder of SD 1.x has other names (Hugging
Face's); they are read, and what is written has SD 2.x's. Reading is strict, and nothing is ever unpickled. Every error
that a user can cause is one line.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ARTVConfig, TextConfig, VAEConfig
from ..files.finite import is_finite
from ..files.partial_file import one_line
from ..files.tensor_file import Reader, TensorFile, broken_link, open_tensor_file, write_tensor_file
from ..models.artv import ARTV
from ..models.taesd import TAESD
from .public_files import (
    PUBLIC_SD_EXTRAS,
    SD1,
    SD2,
    has_weights,
    input_channels,
    kind_of,
    prediction_of,
    with_shapes,
    with_usual_names,
)

PARTS = {
    "unet": "noise UNet",
    "branches": "reference adapter, anchor and noise-level branches",
    "mask": "mask network",
    "vae": "VAE",
    "text": "text encoder",
}
"""What a file may hold. "unet" is what a public SD file has too; "branches" is what ARTV adds to it."""

PACKAGE = Path(__file__).parents[1]

OPTIONAL_PARTS = ("mask", "vae", "text")

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
_TEXT_PREFIX = "cond_stage_model.model."
_SD1_TEXT_PREFIXES = ("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer.")
# Parts of the text encoder's names, here and in SD 1.x. Its queries, keys and values are three tensors there.
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
_VAE_PREFIX = {"kl": "first_stage_model.", "taesd": "taesd_encoder."}
_UNET_BRANCH = re.compile(r"\.(anchor_to_[a-z]+|reference_level_embed|anchor_level_embed)\.")

_FLOAT_TYPES = ("F16", "BF16", "F32")
_PUBLIC_FLOAT_TYPES = (*_FLOAT_TYPES, "F64", "F8_E4M3", "F8_E5M2")
_METADATA_LIMIT = 1_000_000
_OWN_METADATA = ("format", "artv_config", "artv_parts", "artv_base")


# Writing


def save_checkpoint(
    model: ARTV,
    path: str | Path,
    dtype: torch.dtype = torch.float16,
    parts: Collection[str] | None = None,
    base: str | None = None,
    extra_metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `model` to one safetensors file, whole or not at all.

    `parts` are names in `PARTS`, by default all that the model has. A file without "unet" or "branches" must name in
    `base` the file that has them (its name, for the reader; no path is followed). `extra_metadata` travels along.

    Raises ValueError, one line, where the file cannot be written (a full disk, no such folder), for parts that the
    model lacks, for more than a million characters of metadata, and for weights that `dtype` cannot hold (infinite or
    not a number).
    """
    chosen = _parts_to_save(model, parts, base)
    metadata = {"format": "pt", "artv_config": model.config.to_json(), "artv_parts": ",".join(chosen)}
    if base is not None:
        metadata["artv_base"] = base
    for name, text in (extra_metadata or {}).items():
        if name in _OWN_METADATA:
            raise ValueError(f"extra_metadata: {name!r} is the checkpoint's own; choose another name")
        metadata[name] = text
    characters = sum(len(name) + len(text) for name, text in metadata.items())
    if characters > _METADATA_LIMIT:
        raise ValueError(f"the metadata has {characters} characters; accepted are up to {_METADATA_LIMIT}")
    tensors = {
        file_key(name): _for_file(name, tensor, dtype)
        for name, tensor in model.state_dict().items()
        if _part_of(file_key(name)) in chosen
    }
    if "vae" in chosen and isinstance(model.vae, TAESD):
        tensors |= _host_scale(model.config)
    write_tensor_file(path, tensors, metadata)


def _parts_to_save(model: ARTV, parts: Collection[str] | None, base: str | None) -> list[str]:
    held = [part for part in PARTS if part not in OPTIONAL_PARTS or getattr(model, part) is not None]
    chosen = held if parts is None else [part for part in PARTS if part in parts]
    for part in parts or ():
        if part not in held:
            raise ValueError(f"cannot save part {part!r}: this model holds {', '.join(held)}")
    absent = [part for part in ("unet", "branches") if part not in chosen]
    if absent and base is None:
        raise ValueError(f"a checkpoint without {' and '.join(absent)} must name its base; give base=")
    return chosen


def _for_file(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    tensor = tensor.detach().to("cpu", dtype).contiguous()
    if not torch.isfinite(tensor).all():
        raise ValueError(f"cannot save {name}: it holds values that are infinite or not a number in {dtype}")
    return tensor


def _host_scale(config: ARTVConfig) -> dict[str, Tensor]:
    """What the host needs to use a TAESD as its own VAE: host latent = core latent / scale + shift."""
    return {"vae_scale": torch.tensor(config.vae.scale), "vae_shift": torch.tensor(config.vae.shift)}


# Reading


def load_checkpoint(
    path: str | Path,
    *,
    base: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    operations: Any = torch.nn,
    without: Collection[str] = (),
    reader: Reader | None = None,
) -> ARTV:
    """Build the model a checkpoint describes and fill it, on `device` in `dtype`, in evaluation mode.

    Parts that the file lacks come from `base`, a public SD file of the model's own family (1.x or 2.x) or another ARTV
    checkpoint; of these, `mask`, `vae` and `text` may be in neither and are then None. `without` leaves optional parts
    out. `operations` is the class of layers to build the networks from.

    `reader` reads the tensors in place of safetensors. What it gives in the right type and place becomes the model's
    weights as it is, without a copy.

    Peak memory is the model's own and at most 256 MiB more. Raises ValueError, one line, for a file that is not an ARTV
    checkpoint (truncated, pickled, of another kind), and for missing and unexpected keys, wrong shapes and types.
    """
    _check_names(without, OPTIONAL_PARTS)
    file = _open(path, reader)
    config = _read_config(file)
    held = _declared_parts(file, config)
    base_file = None if base is None else _open(base, reader)
    wanted = [part for part in PARTS if part not in without and (part != "mask" or config.mask is not None)]
    sources = _choose_sources(file, held, base_file, wanted, config.vae)

    # From plain layers: a host's own may have no tensors at all before they are loaded.
    expected = _expected_tensors(_build_empty(file, config, sources, nn))
    _check_tensors(file, [part for part in held if part not in without], expected, held, extras=())
    _check_host_scale(file, config)
    if base_file is not None:
        from_base = [part for part, source in sources.items() if source is base_file]
        _check_base_family(base_file, from_base, file, config)
        fitted, expected_of_base = _fitted(base_file, from_base, expected, config)

    state: dict[str, Tensor] = {}
    for part, chosen in sources.items():
        source, slots = (file, expected[part]) if chosen is file else (fitted, expected_of_base[part])
        for slot, tensor in _read_slots(source, slots):
            # The null context is an input, not a weight: where weights are stored in 8 bits it is not.
            kept = torch.float32 if slot.model_key == "null_context" else dtype
            moved = tensor.to(device, kept, copy=reader is None)
            if reader is None:  # one that a host reads may not be in memory yet
                _check_numbers(source, slot, moved)
            _collect(state, slot, moved)
    model = _build_empty(file, config, sources, operations)
    state |= _never_computed(model, state, device, dtype)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def read_part(
    path: str | Path, part: str, *, base: str | Path | None = None, reader: Reader | None = None
) -> dict[str, Tensor]:
    """The tensors of one part (a name in `PARTS`) under the keys that ARTV writes; from `base` where the file has none
    of them, and empty where neither has. For a host that fills networks of its own. With a `reader` they are as it
    gives them, else copies.

    Of an ARTV checkpoint and its base a part is read as strictly as by `load_checkpoint`, but for the text encoder:
    which tensors it has depends on open_clip, which a host need not have. Raises ValueError, one line, also where the
    base is of another family than the checkpoint at `path`.
    """
    _check_names([part], PARTS)
    file = _open(path, reader)
    config = _read_config(file) if "artv_config" in file.metadata else None
    source = file
    if base is not None and not any(_part_of(key) == part for key in file.tensors):
        source = _open(base, reader)
    if config is not None:
        if part not in (_parts_in(source) if source is file else _parts_in(source, config.vae)):
            return {}
        source = _checked_part(source, part, file, config)
    tensors = _read_all(source, part)
    if part == "text" and config is not None and source is not file:
        tensors |= _last_block_as_zeros(tensors, config.text)
    return tensors


def _checked_part(source: TensorFile, part: str, file: TensorFile, config: ARTVConfig) -> TensorFile:
    """`source`, the checkpoint `file` or its base, as it is to be read. Raises ValueError where it does not hold the
    part as configured."""
    if source is not file:
        _check_base_family(source, [part], file, config)
    if part == "text":
        return source
    expected = _expected_tensors(_build_empty(file, config, [part], nn))
    if source is not file:
        return _fitted(source, [part], expected, config)[0]
    _check_tensors(file, [part], expected, PARTS, extras=())
    return source


def load_taesd_decoder(
    path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """TAESD's decoder from its public file: latents [B, 4, h, w] in the core's scale to images [B, 3, 8h, 8w], not
    clamped. Takes the keys of `taesd_decoder.safetensors`, those of diffusers and ARTV's own. Raises ValueError, one
    line, for anything else."""
    file = open_tensor_file(path)
    with torch.device("meta"):
        decoder = TAESD().taesd_decoder
    expected = {key: tuple(tensor.shape) for key, tensor in decoder.state_dict().items()}
    named = {key: ours for key in file.tensors if (ours := _taesd_decoder_key(key)) is not None}
    found = {ours: file.tensors[key].shape for key, ours in named.items()}
    if found != expected:
        raise ValueError(f"{file.path} does not hold TAESD's decoder for 4 latent channels (taesd_decoder.safetensors)")
    state = {named[key]: tensor.to(device, dtype, copy=True) for key, tensor in file.read(named)}
    decoder.load_state_dict(state, strict=True, assign=True)
    return decoder.eval().requires_grad_(False)


def _taesd_decoder_key(key: str) -> str | None:
    """The key in our decoder; diffusers counts its layers without the clamp before them."""
    match = re.fullmatch(r"(taesd_decoder\.|decoder\.layers\.|)(\d{1,3})\.(.+)", key)
    if match is None:
        return None
    return f"{int(match[2]) + (match[1] == 'decoder.layers.')}.{match[3]}"


def initialise_from_stable_diffusion(
    model: ARTV, path: str | Path, parts: Collection[str] | None = None
) -> tuple[str, ...]:
    """Fill noise UNet, KL VAE and text encoder from a public SD file (LDM keys) of the model's family, 1.x or 2.x.

    `parts` names those of "unet", "vae" and "text" that are wanted, by default all that the model has. Weights keep the
    model's own types and devices; tensors are read one by one. ARTV's own branches stay as they are; with the text
    encoder, `null_context` becomes the encoding of the empty prompt. Returns the names of the parts filled. Raises
    ValueError, one line, before anything is changed, where the file does not fit exactly or the model lacks a part; and
    while filling, where a weight is infinite or not a number.
    """
    chosen = _parts_to_fill(model, parts)
    file = _open(path)
    if "artv_config" in file.metadata:
        raise ValueError(f"{file.path} is an ARTV checkpoint, not a Stable Diffusion one; load it as a checkpoint")
    _check_family(file, model.config, "this model needs {} with LDM keys")
    file, expected = _fitted(file, chosen, _expected_tensors(model), model.config)

    state = model.state_dict()
    filled = set()
    for part in chosen:
        for slot, tensor in _read_slots(file, expected[part]):
            _check_numbers(file, slot, tensor.to(state[slot.model_key].dtype))
            slot.place_in(state[slot.model_key]).copy_(tensor)
            filled.add(slot.model_key)
    if "text" in chosen:
        for name in _last_block(model.config.text, state, "text.model.") - filled:
            state[name].zero_()
    if "text" in chosen:
        model.update_null_context()
    return tuple(chosen)


def _parts_to_fill(model: ARTV, parts: Collection[str] | None) -> list[str]:
    held = ["unet"]
    if model.vae is not None and not isinstance(model.vae, TAESD):
        held.append("vae")
    if model.text is not None:
        held.append("text")
    for part in parts or ():
        if part not in held:
            named = one_line(part, 60)
            raise ValueError(f"cannot fill {named!r} from a public file: this model takes {', '.join(held)}")
    return [part for part in held if parts is None or part in parts]


@dataclass(frozen=True)
class CheckpointSummary:
    """What `artv info` tells of a file.

    `parts` are the names (in `PARTS`) of what it holds, `parameters` how many numbers each of them has, `missing` what
    it cannot do alone: use -> what to do about it. `base` is the file that it was trained on, where it names one.
    `metadata` is what else there is, each text cut to one line of 300 characters.
    """

    path: Path
    config: ARTVConfig
    parts: tuple[str, ...]
    base: str | None
    parameters: dict[str, int]
    file_bytes: int
    dtypes: tuple[str, ...]
    missing: dict[str, str]
    metadata: dict[str, str]


def describe_checkpoint(path: str | Path) -> CheckpointSummary:
    """Read a checkpoint's header only; no tensor is loaded. Raises ValueError, one line, as `load_checkpoint` does."""
    file = open_tensor_file(path)
    config = _read_config(file)
    parameters = dict.fromkeys(_declared_parts(file, config), 0)
    for key, tensor in file.tensors.items():
        part = _part_of(key)
        if part in parameters and key not in ("vae_scale", "vae_shift"):
            parameters[part] += tensor.count
    held = tuple(part for part, count in parameters.items() if count)
    base = one_line(file.metadata["artv_base"]) if "artv_base" in file.metadata else None
    return CheckpointSummary(
        path=file.path,
        config=config,
        parts=held,
        base=base,
        parameters={part: parameters[part] for part in held},
        file_bytes=file.path.stat().st_size,
        dtypes=tuple(sorted({tensor.dtype for tensor in file.tensors.values()})),
        missing=_missing_uses(held, base),
        metadata={
            one_line(name, 60): one_line(text) for name, text in file.metadata.items() if name not in _OWN_METADATA
        },
    )


def _missing_uses(held: Collection[str], base: str | None) -> dict[str, str]:
    named = f"name its base with --base ({base})" if base else "name a base checkpoint with --base"
    uses = {
        "making frames": (("unet", "branches"), named),
        "copying from the frame before": (("mask",), "it has no mask network; frames are made without one"),
        "images in and out": (("vae",), f"it has no VAE; {named}, or give and take latents"),
        "text prompts": (("text",), f"it has no text encoder; {named}, or give a context"),
    }
    return {use: advice for use, (parts, advice) in uses.items() if not set(parts) <= set(held)}


# Finding


def shipped_checkpoint(name: str = "tiny") -> Path:
    """The newest `NAME-v*.safetensors` that came with this package. Raises ValueError that lists what did."""
    shipped = _shipped()
    if name not in shipped:
        raise ValueError(f"no checkpoint {name!r} comes with this package; it has: {', '.join(shipped) or 'none'}")
    return shipped[name]


def shipped_names() -> list[str]:
    """Names of the checkpoints that came with this package, in order."""
    return list(_shipped())


def resolve_checkpoint(name_or_path: str | Path) -> Path:
    """A path as it is, and a bare name such as "tiny" as the shipped checkpoint of that name. Raises ValueError."""
    path = Path(name_or_path)
    shipped = _shipped()
    if str(name_or_path) in shipped and not path.is_file():
        return shipped[str(name_or_path)]
    if not os.path.exists(path):  # Path.exists raises where a name is too long
        none = broken_link(path) or f"no such checkpoint: {path}"
        raise ValueError(f"{none}; shipped with this package: {', '.join(shipped) or 'none'}")
    return path


def _shipped() -> dict[str, Path]:
    folder = PACKAGE / "checkpoints"
    versions: dict[str, tuple[tuple[int, ...], Path]] = {}
    for path in folder.glob("*.safetensors"):
        match = re.fullmatch(r"(.+)-v(\d+(?:\.\d+)*)", path.stem)
        if match:
            version = tuple(int(number) for number in match[2].split("."))
            versions[match[1]] = max(versions.get(match[1], (version, path)), (version, path))
    return {name: path for name, (_, path) in sorted(versions.items())}


# What a file is


def _open(path: str | Path, reader: Reader | None = None) -> TensorFile:
    """As `open_tensor_file`; a public file's tensors go by Stable Diffusion's usual names."""
    file = open_tensor_file(path, reader)
    return file if "artv_config" in file.metadata else with_usual_names(file)


def prediction_warning(path: str | Path, config: ARTVConfig) -> str | None:
    """One line where the UNet of a public SD file predicts, or seems to predict, something else than `config` says:
    trained on such a base a model has to learn all of it again. Else None."""
    file, schedule = _open(path), config.schedule
    found = None if "artv_config" in file.metadata else prediction_of(file)
    if found is None:
        return None
    # That the configuration asks for zero terminal SNR and the base does not is no fault: a training can add it.
    if found.kind == schedule.prediction and found.zero_terminal_snr <= schedule.zero_terminal_snr:
        return None
    wanted = schedule.prediction + (", with zero terminal SNR" if schedule.zero_terminal_snr else "")
    setting = f'prediction = "{found.kind}"' + (", zero_terminal_snr = true" if found.zero_terminal_snr else "")
    return f"{file.path} {found}, the configuration says {wanted}; take another base, or train with {setting}"


def _described(file: TensorFile) -> str:
    """What a public file is, in words."""
    kind = kind_of(file)
    if kind not in (SD1, SD2):
        return f"{kind}, not an ARTV checkpoint"
    prediction, held = prediction_of(file), _parts_in(file)
    told = f" that {prediction}" if prediction else ""
    lacks = [PARTS[part] for part in ("unet", "vae", "text") if part not in held]
    without = f" (without {' and '.join(lacks)})" if lacks else ""
    use = "it can be the base of one (--base) and start a training (initialise_from_stable_diffusion)"
    return f"{kind}{told}, not an ARTV checkpoint; {use}{without}"


def _read_config(file: TensorFile) -> ARTVConfig:
    text = file.metadata.get("artv_config")
    if text is None:
        raise ValueError(f"{file.path} is {_described(file)}")
    try:
        return ARTVConfig.from_json(text)
    except (ValueError, ArithmeticError) as error:
        raise ValueError(f"{file.path}: {one_line(str(error))}") from None


def _family_of(config: ARTVConfig) -> str:
    """What public files the model's UNet and text encoder come from."""
    return SD2 if config.noise.unet.linear_projections else SD1


def _check_base_family(base: TensorFile, parts: Collection[str], file: TensorFile, config: ARTVConfig) -> None:
    """Raises ValueError where a public base is of the wrong kind for these parts. VAEs are alike in 1.x and 2.x."""
    if "artv_config" in base.metadata or not {"unet", "text"} & set(parts):
        return
    _check_family(base, config, f"{file.path} needs {{}} as its base")


def _check_family(public: TensorFile, config: ARTVConfig, needs: str) -> None:
    """Raises ValueError where a public file is not of the model's family; `needs` has a {} for what is needed."""
    kind, needed = kind_of(public), _family_of(config)
    if kind != needed:
        raise ValueError(f"{public.path} is {kind}; {needs.format(needed)}")
    channels, wanted = input_channels(public), config.noise.unet.in_channels
    if channels not in (None, wanted):
        raise ValueError(
            f"{public.path} is {kind} of another purpose: its UNet takes {channels} channels; "
            f"{needs.format(f'{needed} with {wanted}')}"
        )


# Matching tensors to networks


@dataclass(frozen=True)
class _Slot:
    model_key: str  # empty: the host reads it, we do not
    shape: tuple[int, ...]
    third: int | None = None  # 0, 1, 2: this third of the model's rows

    def place_in(self, tensor: Tensor) -> Tensor:
        return tensor if self.third is None else tensor.chunk(3)[self.third]


def part_of_weight(name: str) -> str:
    """The part (a name in `PARTS`) that a weight belongs to; `name` as `ARTV.named_parameters` has it. KeyError for
    what is no weight of the model."""
    return _part_of(file_key(name)) or ""


def file_key(model_key: str) -> str:
    """The key in a file of what the model's state dict has under `model_key`."""
    for inside, outside in _MODEL_TO_FILE:
        if model_key.startswith(inside):
            return outside + model_key.removeprefix(inside)
    raise KeyError(model_key)


def _part_of(key: str) -> str | None:
    for prefix, part in _FILE_TO_PART:
        if key.startswith(prefix):
            return "branches" if part == "unet" and _UNET_BRANCH.search(key) else part
    return None


def _expected_tensors(model: ARTV) -> dict[str, dict[str, _Slot]]:
    """For each part, the keys that a file must have for it, and where in the model they go."""
    expected: dict[str, dict[str, _Slot]] = {part: {} for part in PARTS}
    for name, tensor in model.state_dict().items():
        key = file_key(name)
        expected[_part_of(key) or ""][key] = _Slot(name, tuple(tensor.shape))
    if isinstance(model.vae, TAESD):
        expected["vae"] |= {key: _Slot("", ()) for key in _host_scale(model.config)}
    return expected


def _fitted(
    file: TensorFile, parts: Collection[str], expected: dict[str, dict[str, _Slot]], config: ARTVConfig
) -> tuple[TensorFile, dict[str, dict[str, _Slot]]]:
    """A public file as it is to be read for these parts, and what is expected of it by its own names. Raises ValueError
    where it does not fit."""
    for part in parts:
        if not any(_part_of(key) == part for key in file.tensors):
            raise ValueError(f"{file.path} holds no {PARTS[part]}; take one that does")
    named = _as_named_in(file, expected)
    file = with_shapes(file, {key: slot.shape for part in parts for key, slot in named[part].items()})
    unused = _last_block(config.text, {slot.model_key for slot in named["text"].values()}, "text.model.")
    of_unused = {key for key, slot in named["text"].items() if slot.model_key in unused}
    if of_unused and not of_unused & file.tensors.keys():
        named["text"] = {key: slot for key, slot in named["text"].items() if key not in of_unused}
    _check_scaled(file)
    _check_tensors(file, parts, named, PARTS, extras=PUBLIC_SD_EXTRAS, types=_PUBLIC_FLOAT_TYPES)
    return file, named


def _last_block(config: TextConfig, keys: Iterable[str], prefix: str) -> set[str]:
    """Those of `keys` that are of a block that is never computed, and that some public files lack for that reason."""
    if config.layer != "penultimate":
        return set()
    last = f"{prefix}transformer.resblocks.{config.layers - 1}."
    return {key for key in keys if key.startswith(last)}


def _never_computed(
    model: ARTV, state: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Zeros for the text encoder's last block, where it is never computed and was not read."""
    if model.text is None:
        return {}
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items() if name not in state}
    lacking = _last_block(model.config.text, shapes, "text.model.")
    return {name: torch.zeros(shapes[name], device=device, dtype=dtype) for name in lacking}


def _last_block_as_zeros(tensors: Mapping[str, Tensor], config: TextConfig) -> dict[str, Tensor]:
    """The text encoder's last block as zeros, under the keys that ARTV writes, where it is never computed and none of
    it is there: a host builds it all the same. Its shapes are those of the block before."""
    if config.layer != "penultimate" or _last_block(config, tensors, _TEXT_PREFIX):
        return {}
    stems = [f"{_TEXT_PREFIX}transformer.resblocks.{config.layers - offset}." for offset in (2, 1)]
    return {
        stems[1] + key.removeprefix(stems[0]): torch.zeros_like(tensor)
        for key, tensor in tensors.items()
        if key.startswith(stems[0])
    }


def _check_scaled(file: TensorFile) -> None:
    """Raises ValueError where numbers mean something only together with scales that stand beside them."""
    marks = ("scaled_fp8", ".scale_weight", ".weight_scale", ".comfy_quant", ".absmax", ".quant_map")
    scaled = next((key for key in file.tensors if key.endswith(marks)), None)
    if scaled:
        key = one_line(scaled, 160)
        raise ValueError(f"{file.path} holds quantised weights with scales ({key}); take its float16 version")


def _as_named_in(file: TensorFile, expected: dict[str, dict[str, _Slot]]) -> dict[str, dict[str, _Slot]]:
    """The same for a public file, whose text encoder may have SD 1.x's names."""
    prefix = _sd1_text_prefix(file)
    if prefix is None:
        return dict(expected)
    text = {prefix + name: slot for key, slot in expected["text"].items() for name, slot in _sd1_text_slots(key, slot)}
    return {**expected, "text": text}


def _sd1_text_prefix(file: TensorFile) -> str | None:
    return next((prefix for prefix in _SD1_TEXT_PREFIXES if has_weights(file, prefix)), None)


def _sd1_text_slots(key: str, slot: _Slot) -> Iterator[tuple[str, _Slot]]:
    names = _sd1_text_names(key)
    if len(names) == 1:
        yield names[0], slot
        return
    for third, name in enumerate(names):
        yield name, _Slot(slot.model_key, (slot.shape[0] // 3, *slot.shape[1:]), third)


def _sd1_text_names(key: str) -> list[str]:
    """SD 1.x's names, without a prefix, for a key of ours: one, or three for queries, keys and values."""
    name = key.removeprefix(_TEXT_PREFIX)
    for ours, public in _SD1_TEXT_NAMES:
        name = name.replace(ours, public)
    return [name.format(letter) for letter in "qkv"] if "{}" in name else [name]


def _read_slots(file: TensorFile, slots: Mapping[str, _Slot]) -> Iterator[tuple[_Slot, Tensor]]:
    wanted = {key: slot for key, slot in slots.items() if slot.model_key}
    for key, tensor in file.read(wanted):
        yield wanted[key], tensor


def _check_numbers(file: TensorFile, slot: _Slot, tensor: Tensor) -> None:
    """Raises ValueError where a weight is not finite in the type that it is to have."""
    if not is_finite(tensor):
        raise ValueError(
            f"{file.path} cannot be used: {file_key(slot.model_key)} holds values that are infinite or not a number in "
            f"{tensor.dtype}; the file is damaged, or was merged or saved wrongly"
        )


def _collect(state: dict[str, Tensor], slot: _Slot, tensor: Tensor) -> None:
    if slot.third is None:
        state[slot.model_key] = tensor
        return
    if slot.model_key not in state:
        state[slot.model_key] = tensor.new_empty(3 * tensor.shape[0], *tensor.shape[1:])
    slot.place_in(state[slot.model_key]).copy_(tensor)


def _read_all(file: TensorFile, part: str) -> dict[str, Tensor]:
    """All tensors of a part under the keys that ARTV writes; copies, unless the file has a reader of its own."""
    read = file.read(key for key in file.tensors if _part_of(key) == part)
    found = {key: _in_common_type(tensor if file.reader else tensor.clone()) for key, tensor in read}
    prefix = _sd1_text_prefix(file) if part == "text" else None
    if prefix is None:
        return found
    joined: dict[str, dict[int, Tensor]] = {}
    for key, tensor in found.items():
        ours, third = _our_text_key(key, prefix)
        joined.setdefault(ours, {})[third] = tensor
    try:
        return {key: _cat([thirds[index] for index in sorted(thirds)]) for key, thirds in joined.items()}
    except RuntimeError:
        raise ValueError(f"{file.path} does not fit: its queries, keys and values differ in shape") from None


def _in_common_type(tensor: Tensor) -> Tensor:
    """Numbers of 8 bits in 16, which hold all of them, and of 64 in 32: hosts take neither everywhere."""
    if tensor.dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        return tensor.to(torch.float16)
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _cat(tensors: list[Tensor]) -> Tensor:
    return torch.cat(tensors) if len(tensors) > 1 else tensors[0]


def _our_text_key(key: str, prefix: str) -> tuple[str, int]:
    """Inverse of `_sd1_text_names`: our key, and which third of it is meant (0 where it is whole)."""
    if not key.startswith(prefix):
        return key, 0
    name = key.removeprefix(prefix)
    match = _SD1_QKV.search(name)
    third = "qkv".index(match[1]) if match else 0
    name = _SD1_QKV.sub(".self_attn.{}_proj.", name)
    for ours, public in _SD1_TEXT_NAMES:
        name = name.replace(public, ours)
    return _TEXT_PREFIX + name, third


def _declared_parts(file: TensorFile, config: ARTVConfig) -> list[str]:
    declared = file.metadata.get("artv_parts")
    if declared is None:
        return [part for part in PARTS if part != "mask" or config.mask is not None]
    names = declared.split(",", len(PARTS))
    _check_names(names, PARTS, f"{file.path}: artv_parts")
    return [part for part in PARTS if part in names]


def _check_names(names: Iterable[str], known: Iterable[str], where: str = "parts") -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{where}: got {one_line(name, 60)!r}, accepted are {', '.join(known)}")


def _choose_sources(
    file: TensorFile, held: list[str], base: TensorFile | None, wanted: list[str], vae: VAEConfig
) -> dict[str, TensorFile]:
    """Where each wanted part comes from: the file, else its base, else, for an optional part, nowhere."""
    in_base = set() if base is None else _parts_in(base, vae)
    sources = {}
    for part in wanted:
        if part in held:
            sources[part] = file
        elif base is not None and part in in_base:
            sources[part] = base
        elif part not in OPTIONAL_PARTS:
            tried = "name it with --base" if base is None else f"{base.path} has no {PARTS[part]} either"
            called = f" ({one_line(file.metadata['artv_base'])})" if "artv_base" in file.metadata else ""
            raise ValueError(f"{file.path} holds no {PARTS[part]} and needs its base checkpoint{called}: {tried}")
    return sources


def _parts_in(file: TensorFile, vae: VAEConfig | None = None) -> set[str]:
    """The parts that a file has tensors of; where `vae` is given, a VAE of another kind is none."""
    parts = {_part_of(key) or "" for key in file.tensors}
    if vae is not None and not any(key.startswith(_VAE_PREFIX[vae.kind]) for key in file.tensors):
        parts.discard("vae")
    return parts


def _build_empty(file: TensorFile, config: ARTVConfig, parts: Collection[str], operations: Any) -> ARTV:
    """The model without memory for its weights: what the file brings becomes them."""
    try:
        with torch.device("meta"):
            return ARTV(config, mask="mask" in parts, vae="vae" in parts, text="text" in parts, operations=operations)
    except (ValueError, RuntimeError, ArithmeticError, TypeError, IndexError) as error:
        why = one_line(str(error))
        raise ValueError(f"{file.path}: artv_config describes networks that cannot be: {why}") from None


def _check_tensors(
    file: TensorFile,
    parts: Collection[str],
    expected: dict[str, dict[str, _Slot]],
    accepted: Collection[str],
    extras: tuple[str, ...],
    types: tuple[str, ...] = _FLOAT_TYPES,
) -> None:
    """`parts` of the file must be exactly as expected; other `accepted` parts are passed over, and so are `extras`."""
    slots = {key: slot for part in parts for key, slot in expected[part].items()}
    unexpected = []
    for key in file.tensors:
        part = _part_of(key)
        belongs = part in accepted and (part not in parts or key in slots)
        if not belongs and not any(fnmatchcase(key, pattern) for pattern in extras):
            unexpected.append(key)
    shared = [key for key in slots if key in file.tensors]
    faults = {
        "missing keys": [key for key in slots if key not in file.tensors],
        "unexpected keys": unexpected,
        "wrong shapes": [
            f"{key} (got {list(file.tensors[key].shape)}, expected {list(slots[key].shape)})"
            for key in shared
            if file.tensors[key].shape != slots[key].shape
        ],
        "wrong types": [
            f"{key} (got {file.tensors[key].dtype}, expected {', '.join(types)})"
            for key in shared
            if file.tensors[key].dtype not in types
        ],
    }
    found = [f"{len(names)} {fault}: {_first_few(names)}" for fault, names in faults.items() if names]
    if found:
        raise ValueError(f"{file.path} does not fit: {one_line('; '.join(found), 900)}")


def _check_host_scale(file: TensorFile, config: ARTVConfig) -> None:
    for key, wanted in _host_scale(config).items():
        info = file.tensors.get(key)
        if info is None:
            continue
        if info.dtype not in _FLOAT_TYPES or info.shape:
            got = f"{info.dtype} {list(info.shape)}"
            raise ValueError(f"{file.path}: {key} is {got}, expected a single number ({', '.join(_FLOAT_TYPES)})")
        for _, scale in file.read([key]):
            if scale.float() != wanted:
                raise ValueError(f"{file.path}: {key} is {[scale.item()]}, artv_config says {wanted.item()}")


def _first_few(names: list[str], limit: int = 4) -> str:
    shown = ", ".join(one_line(name, 160) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
