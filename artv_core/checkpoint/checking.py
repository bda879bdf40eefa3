"""Checks of a checkpoint file before its tensors become a model: the kind of file, its configuration, parts and model
family, and the keys, shapes, types and values of its tensors."""

from collections.abc import Collection, Iterable
from dataclasses import fields
from fnmatch import fnmatchcase
from operator import attrgetter
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import ARTVConfig, ScheduleConfig
from ..files.finite import is_finite
from ..files.partial_file import one_line
from ..files.tensor_file import Reader, TensorFile, open_tensor_file
from ..models.artv import ARTV
from ..models.hollow import hollow
from .names import PARTS, Slot, as_named_in, file_key, host_scale, last_block, part_of, parts_held, usable_parts
from .public_files import (
    PUBLIC_SD_EXTRAS,
    SD1,
    SD2,
    input_channels,
    kind_of,
    prediction_of,
    with_shapes,
    with_usual_names,
)

_FLOAT_TYPES = ("F16", "BF16", "F32")
_PUBLIC_FLOAT_TYPES = (*_FLOAT_TYPES, "F64", "F8_E4M3", "F8_E5M2")


# Kinds of files


def open_file(path: str | Path, reader: Reader | None = None) -> TensorFile:
    """Like `open_tensor_file`, but the tensors of a public file get Stable Diffusion's usual names."""
    file = open_tensor_file(path, reader)
    return file if "artv_config" in file.metadata else with_usual_names(file)


def read_config(file: TensorFile) -> ARTVConfig:
    """The configuration in the file's metadata. Raises ValueError if it is missing or invalid."""
    text = file.metadata.get("artv_config")
    if text is None:
        raise ValueError(f"{file.path} is {_described(file)}")
    try:
        return ARTVConfig.from_json(text)
    except (ValueError, ArithmeticError) as error:
        raise ValueError(f"{file.path}: {one_line(str(error))}") from None


def _described(file: TensorFile) -> str:
    """A description of a public file, for a message."""
    kind = kind_of(file)
    if kind not in (SD1, SD2):
        return f"{kind}, not an ARTV checkpoint"
    prediction, held = prediction_of(file), parts_held(file)
    predicts = f" that {prediction}" if prediction else ""
    lacks = [PARTS[part] for part in ("unet", "vae", "text") if part not in held]
    without = f" (without {' and '.join(lacks)})" if lacks else ""
    use = "it can be the base of one, or the start of a training"
    return f"{kind}{predicts}, not an ARTV checkpoint; {use}{without}"


def declared_parts(file: TensorFile, config: ARTVConfig) -> list[str]:
    """The parts that a checkpoint's metadata lists, or all parts of its configuration if there is no list. Raises
    ValueError on a name that is not in `PARTS`."""
    declared = file.metadata.get("artv_parts")
    if declared is None:
        return usable_parts(config)
    names = declared.split(",", len(PARTS))
    check_names(names, PARTS, f"{file.path}: artv_parts")
    if {"unet", "lora"} <= set(names):
        raise ValueError(f"{file.path}: artv_parts: got both unet and lora, accepted is one of them")
    return [part for part in PARTS if part in names]


def check_names(names: Iterable[str], known: Iterable[str], where: str = "parts") -> None:
    """Raises ValueError, which lists the known names, on the first name that is not known."""
    for name in names:
        if name not in known:
            raise ValueError(f"{where}: got {one_line(name, 60)!r}, accepted are {', '.join(known)}")


# Uses of public files


def prediction_warning(path: str | Path, config: ARTVConfig) -> str | None:
    """A one-line warning if the UNet of a public SD file predicts (or seems to predict) something other than `config`
    says, else None. A model trained on such a base must relearn everything."""
    file = open_file(path)
    problem = prediction_problem(file, config)
    return problem and f"{file.path} {problem}"


def prediction_problem(file: TensorFile, config: ARTVConfig) -> str | None:
    """As `prediction_warning`, without the path."""
    found, schedule = None if "artv_config" in file.metadata else prediction_of(file), config.schedule
    if found is None:
        return None
    # A configuration with zero terminal SNR and a base without it are fine: training can add it.
    if found.kind == schedule.prediction and found.zero_terminal_snr <= schedule.zero_terminal_snr:
        return None
    wanted = schedule.prediction + (", with zero terminal SNR" if schedule.zero_terminal_snr else "")
    setting = f'prediction = "{found.kind}"' + (", zero_terminal_snr = true" if found.zero_terminal_snr else "")
    return f"{found}, the configuration says {wanted}; take another base, or train with {setting}"


def check_base(base: TensorFile, parts: Collection[str], path: Path, config: ARTVConfig) -> None:
    """Raises ValueError if a base is of the wrong kind for these parts of the checkpoint at `path`: a public file of
    another family (but a VAE fits both SD 1.x and 2.x), or an ARTV checkpoint with other settings for a part."""
    if "artv_config" in base.metadata:
        _check_settings(base, parts, path, config)
    elif {"unet", "text"} & set(parts):
        check_family(base, config, f"{path} needs {{}} as its base")


_SCHEDULE = tuple(f"schedule.{setting.name}" for setting in fields(ScheduleConfig) if setting.name != "static_noise")
_SETTINGS = {
    "unet": ("noise.unet", *_SCHEDULE),
    "lora": ("noise.unet", *_SCHEDULE),
    "branches": ("noise", *_SCHEDULE),
    "mask": ("mask", *_SCHEDULE, "schedule.static_noise"),
    "vae": ("vae",),
    "text": ("text",),
}
"""The settings, by their place in the configuration, that decide what the weights of each part mean."""


def _check_settings(base: TensorFile, parts: Collection[str], path: Path, config: ARTVConfig) -> None:
    found = read_config(base)
    for part in PARTS:
        for name in _SETTINGS[part] if part in parts else ():
            setting = attrgetter(name)
            if setting(found) != setting(config):
                raise ValueError(
                    f"{base.path} cannot be the base of {path}: its {PARTS[part]} is for another {name}; take the base "
                    "that the checkpoint was trained on"
                )
    if "vae" in parts:
        check_host_scale(base, config)


def check_family(public: TensorFile, config: ARTVConfig, needs: str) -> None:
    """Raises ValueError if a public file is not of the model's family. In `needs`, {} stands for the needed kind."""
    kind, needed = kind_of(public), _family_of(config)
    if kind != needed:
        raise ValueError(f"{public.path} is {kind}; {needs.format(needed)}")
    channels, wanted = input_channels(public), config.noise.unet.in_channels
    if channels not in (None, wanted):
        raise ValueError(
            f"{public.path} is {kind} for another purpose: its UNet takes {channels} channels; "
            f"{needs.format(f'{needed} with {wanted} channels')}"
        )


def _family_of(config: ARTVConfig) -> str:
    """The kind of public file that the model's UNet and text encoder come from."""
    return SD2 if config.noise.unet.linear_projections else SD1


# Tensors


def build_empty(file: TensorFile, config: ARTVConfig, parts: Collection[str], operations: Any) -> ARTV:
    """The model on the meta device, without memory for its weights. The file's tensors become its weights. Raises
    ValueError if the configuration describes an invalid network."""
    try:
        with hollow():
            return ARTV(config, mask="mask" in parts, vae="vae" in parts, text="text" in parts, operations=operations)
    except (ValueError, RuntimeError, ArithmeticError, TypeError, IndexError) as error:
        why = one_line(str(error))
        raise ValueError(f"{file.path}: artv_config describes an invalid network: {why}") from None


def fitted_file(
    file: TensorFile, parts: Collection[str], expected: dict[str, dict[str, Slot]], config: ARTVConfig
) -> tuple[TensorFile, dict[str, dict[str, Slot]]]:
    """A public file with the shapes that these parts need, and the expected tensors under the file's own names. Raises
    ValueError if the file does not fit."""
    for part in parts:
        if part not in parts_held(file):
            raise ValueError(f"{file.path} has no {PARTS[part]}; choose a file that has it")
    named = as_named_in(file, expected)
    file = with_shapes(file, {key: slot.shape for part in parts for key, slot in named[part].items()})
    unused = last_block(config.text, {slot.model_key for slot in named["text"].values()}, "text.model.")
    of_unused = {key for key, slot in named["text"].items() if slot.model_key in unused}
    if of_unused and not of_unused & file.tensors.keys():
        named["text"] = {key: slot for key, slot in named["text"].items() if key not in of_unused}
    _check_scaled(file)
    check_tensors(file, parts, named, PARTS, extras=PUBLIC_SD_EXTRAS, types=_PUBLIC_FLOAT_TYPES)
    return file, named


def _check_scaled(file: TensorFile) -> None:
    """Raises ValueError if weights are quantised, with scales stored in other tensors."""
    marks = ("scaled_fp8", ".scale_weight", ".weight_scale", ".comfy_quant", ".absmax", ".quant_map")
    scaled = next((key for key in file.tensors if key.endswith(marks)), None)
    if scaled:
        key = one_line(scaled, 160)
        raise ValueError(f"{file.path} has quantised weights with scales ({key}); use its float16 version")


def check_tensors(
    file: TensorFile,
    parts: Collection[str],
    expected: dict[str, dict[str, Slot]],
    accepted: Collection[str],
    extras: tuple[str, ...],
    types: tuple[str, ...] = _FLOAT_TYPES,
) -> None:
    """Check that `parts` of the file are exactly as expected. Other `accepted` parts and keys that match `extras` are
    ignored. Raises ValueError on missing and unexpected keys, and on wrong shapes and types."""
    slots = {key: slot for part in parts for key, slot in expected[part].items()}
    unexpected = []
    for key in file.tensors:
        part = part_of(key)
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


def _first_few(names: list[str], limit: int = 4) -> str:
    shown = ", ".join(one_line(name, 160) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def check_host_scale(file: TensorFile, config: ARTVConfig) -> None:
    """Raises ValueError if the scale that the file has for ComfyUI differs from the configuration's."""
    for key, wanted in host_scale(config).items():
        info = file.tensors.get(key)
        if info is None:
            continue
        if info.dtype not in _FLOAT_TYPES or info.shape:
            got = f"{info.dtype} {list(info.shape)}"
            raise ValueError(f"{file.path}: {key} is {got}, expected a single number ({', '.join(_FLOAT_TYPES)})")
        for _, scale in file.read([key]):
            if scale.float() != wanted:
                raise ValueError(f"{file.path}: {key} is {[scale.item()]}, artv_config says {wanted.item()}")


def check_numbers(file: TensorFile, slot: Slot, tensor: Tensor) -> None:
    """Raises ValueError if a weight, converted to its final type, has values that are not finite."""
    if not is_finite(tensor):
        raise ValueError(
            f"{file.path} cannot be used: {file_key(slot.model_key)} contains values that are infinite or not a number "
            f"in {tensor.dtype}; the file is damaged, or was merged or saved wrongly"
        )
