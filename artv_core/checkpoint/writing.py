"""Writing a model to a checkpoint file, whole or in parts."""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..files.tensor_file import write_tensor_file
from ..models.artv import ARTV
from ..models.taesd import TAESD
from .names import OWN_METADATA, PARTS, file_key, host_scale, part_of

_METADATA_LIMIT = 1_000_000


def save_checkpoint(
    model: ARTV,
    path: str | Path,
    dtype: torch.dtype = torch.float16,
    parts: Collection[str] | None = None,
    base: str | None = None,
    extra_metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `model` to one safetensors file, whole or not at all.

    `parts` are names in `PARTS`, by default all that the model has. A file without "unet" or "branches" needs `base`,
    the name of the file that has them. It is only shown to users, never opened. `extra_metadata` is added to the file's
    metadata.

    Raises ValueError if the file cannot be written (full disk, missing folder), and on parts that the model lacks, on
    more than a million characters of metadata, and on weights that are infinite or not a number in `dtype`.
    """
    chosen = _parts_to_save(model, parts, base)
    metadata = {"format": "pt", "artv_config": model.config.to_json(), "artv_parts": ",".join(chosen)}
    if base is not None:
        metadata["artv_base"] = base
    for name, text in (extra_metadata or {}).items():
        if name in OWN_METADATA:
            raise ValueError(f"extra_metadata: {name!r} is reserved for the checkpoint; choose another name")
        metadata[name] = text
    characters = sum(len(name) + len(text) for name, text in metadata.items())
    if characters > _METADATA_LIMIT:
        raise ValueError(f"the metadata has {characters} characters; accepted are up to {_METADATA_LIMIT}")
    tensors = {
        file_key(name): _for_file(name, tensor, dtype)
        for name, tensor in model.state_dict().items()
        if part_of(file_key(name)) in chosen
    }
    if "vae" in chosen and isinstance(model.vae, TAESD):
        tensors |= host_scale(model.config)
    write_tensor_file(path, tensors, metadata)


def _parts_to_save(model: ARTV, parts: Collection[str] | None, base: str | None) -> list[str]:
    there = {part_of(file_key(name)) for name in model.state_dict()}
    held = [part for part in PARTS if part in there]
    chosen = held if parts is None else [part for part in PARTS if part in parts]
    for part in parts or ():
        if part not in held:
            raise ValueError(f"cannot save part {part!r}: this model has {', '.join(held)}")
    if {"unet", "lora"} <= set(chosen):
        raise ValueError("cannot save the parts unet and lora in one file; leave out one of them")
    absent = [part for part in ("unet", "branches") if part not in chosen]
    if absent and base is None:
        raise ValueError(f"a checkpoint without {' and '.join(absent)} must name its base; give base=")
    return chosen


def _for_file(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    tensor = tensor.detach().to("cpu", dtype).contiguous()
    if not torch.isfinite(tensor).all():
        raise ValueError(f"cannot save {name}: it contains values that are infinite or not a number in {dtype}")
    return tensor
