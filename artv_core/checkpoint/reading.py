"""Reading checkpoint files: models made of them, and single parts for a host that builds networks of its own.

A checkpoint is one safetensors file whose metadata says how to build what its tensors fill. Its keys are Stable
Diffusion's own (LDM) names, so that a public SD 1.x or 2.x file can start a training, or be the base of a checkpoint
that holds only what was trained on top of it. Reading is strict, and nothing is ever unpickled. Every error that a user
can cause is one line.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ARTVConfig, TextConfig, VAEConfig
from ..files.partial_file import one_line
from ..files.tensor_file import Reader, TensorFile, open_tensor_file
from ..files.user_errors import Remedy, UserError
from ..models.artv import ARTV
from ..models.taesd import TAESD
from .checking import (
    build_empty,
    check_base_family,
    check_host_scale,
    check_names,
    check_numbers,
    check_tensors,
    declared_parts,
    fitted_file,
    open_file,
    read_config,
)
from .names import (
    OPTIONAL_PARTS,
    PARTS,
    TEXT_PREFIX,
    Slot,
    expected_tensors,
    last_block,
    our_text_key,
    part_of,
    parts_held,
    sd1_text_prefix,
)

# Whole models


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
    check_names(without, OPTIONAL_PARTS)
    file = open_file(path, reader)
    config = read_config(file)
    held = declared_parts(file, config)
    base_file = None if base is None else open_file(base, reader)
    wanted = [part for part in PARTS if part not in without and (part != "mask" or config.mask is not None)]
    sources = _choose_sources(file, held, base_file, wanted, config.vae)

    # From plain layers: a host's own may have no tensors at all before they are loaded.
    expected = expected_tensors(build_empty(file, config, sources, nn))
    check_tensors(file, [part for part in held if part not in without], expected, held, extras=())
    check_host_scale(file, config)
    if base_file is not None:
        from_base = [part for part, source in sources.items() if source is base_file]
        check_base_family(base_file, from_base, file, config)
        fitted, expected_of_base = fitted_file(base_file, from_base, expected, config)

    state: dict[str, Tensor] = {}
    for part, chosen in sources.items():
        source, slots = (file, expected[part]) if chosen is file else (fitted, expected_of_base[part])
        _read_into(state, source, slots, device, dtype)
    model = build_empty(file, config, sources, operations)
    state |= _never_computed(model, state, device, dtype)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def _choose_sources(
    file: TensorFile, held: list[str], base: TensorFile | None, wanted: list[str], vae: VAEConfig
) -> dict[str, TensorFile]:
    """Where each wanted part comes from: the file, else its base, else, for an optional part, nowhere."""
    in_base = set() if base is None else parts_held(base, vae)
    sources = {}
    for part in wanted:
        if part in held:
            sources[part] = file
        elif base is not None and part in in_base:
            sources[part] = base
        elif part not in OPTIONAL_PARTS:
            called = f" ({one_line(file.metadata['artv_base'])})" if "artv_base" in file.metadata else ""
            found = f"{file.path} holds no {PARTS[part]} and needs its base checkpoint{called}"
            if base is None:
                raise UserError(found, Remedy.BASE)
            raise ValueError(f"{found}: {base.path} has no {PARTS[part]} either")
    return sources


def read_slots(file: TensorFile, slots: Mapping[str, Slot]) -> Iterator[tuple[Slot, Tensor]]:
    """Read the tensors at the keys of `slots`, one by one, each with its slot. Skips those that only the host reads."""
    wanted = {key: slot for key, slot in slots.items() if slot.model_key}
    for key, tensor in file.read(wanted):
        yield wanted[key], tensor


def _read_into(
    state: dict[str, Tensor],
    file: TensorFile,
    slots: Mapping[str, Slot],
    device: torch.device | str,
    dtype: torch.dtype,
) -> None:
    """Fill `state` with the tensors at the keys of `slots`, on `device` in `dtype`."""
    for slot, tensor in read_slots(file, slots):
        # The null context is an input, not a weight: where weights are stored in 8 bits it is not.
        kept = torch.float32 if slot.model_key == "null_context" else dtype
        moved = tensor.to(device, kept, copy=file.reader is None)
        if file.reader is None:  # one that a host reads may not be in memory yet
            check_numbers(file, slot, moved)
        _collect(state, slot, moved)


def _collect(state: dict[str, Tensor], slot: Slot, tensor: Tensor) -> None:
    if slot.third is None:
        state[slot.model_key] = tensor
        return
    if slot.model_key not in state:
        state[slot.model_key] = tensor.new_empty(3 * tensor.shape[0], *tensor.shape[1:])
    slot.place_in(state[slot.model_key]).copy_(tensor)


def _never_computed(
    model: ARTV, state: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Zeros for the text encoder's last block, where it is never computed and was not read."""
    if model.text is None:
        return {}
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items() if name not in state}
    lacking = last_block(model.config.text, shapes, "text.model.")
    return {name: torch.zeros(shapes[name], device=device, dtype=dtype) for name in lacking}


# Single parts


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
    check_names([part], PARTS)
    file = open_file(path, reader)
    config = read_config(file) if "artv_config" in file.metadata else None
    source = file
    if base is not None and not any(part_of(key) == part for key in file.tensors):
        source = open_file(base, reader)
    if config is not None:
        if part not in (parts_held(source) if source is file else parts_held(source, config.vae)):
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
        check_base_family(source, [part], file, config)
    if part == "text":
        return source
    expected = expected_tensors(build_empty(file, config, [part], nn))
    if source is not file:
        return fitted_file(source, [part], expected, config)[0]
    check_tensors(file, [part], expected, PARTS, extras=())
    return source


def _read_all(file: TensorFile, part: str) -> dict[str, Tensor]:
    """All tensors of a part under the keys that ARTV writes; copies, unless the file has a reader of its own."""
    read = file.read(key for key in file.tensors if part_of(key) == part)
    found = {key: _in_common_type(tensor if file.reader else tensor.clone()) for key, tensor in read}
    prefix = sd1_text_prefix(file) if part == "text" else None
    if prefix is None:
        return found
    joined: dict[str, dict[int, Tensor]] = {}
    for key, tensor in found.items():
        ours, third = our_text_key(key, prefix)
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


def _last_block_as_zeros(tensors: Mapping[str, Tensor], config: TextConfig) -> dict[str, Tensor]:
    """The text encoder's last block as zeros, under the keys that ARTV writes, where it is never computed and none of
    it is there: a host builds it all the same. Its shapes are those of the block before."""
    if config.layer != "penultimate" or last_block(config, tensors, TEXT_PREFIX):
        return {}
    stems = [f"{TEXT_PREFIX}transformer.resblocks.{config.layers - offset}." for offset in (2, 1)]
    return {
        stems[1] + key.removeprefix(stems[0]): torch.zeros_like(tensor)
        for key, tensor in tensors.items()
        if key.startswith(stems[0])
    }


# TAESD's decoder


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
