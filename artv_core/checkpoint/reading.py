"""Reading checkpoint files: whole models, and single parts for a host that builds its own networks.

A checkpoint is one safetensors file. Its metadata says how to build the networks that its tensors fill. Its keys are
Stable Diffusion's own (LDM) names. So training can start from a public SD 1.x or 2.x file, and such a file can be the
base of a checkpoint that contains only the parts that were trained on it. Reading is strict, and nothing is ever
unpickled. Every error that a user can cause has one line.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ARTVConfig, TextConfig, VAEConfig
from ..files.partial_file import one_line
from ..files.tensor_file import Reader, TensorFile, open_tensor_file
from ..files.user_errors import Remedy, UserError
from ..models.artv import ARTV
from ..models.hollow import hollow
from ..models.lora import merge_lora
from ..models.taesd import TAESD
from .checking import (
    build_empty,
    check_base,
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
    file_key,
    last_block,
    lora_rank,
    our_text_key,
    part_of,
    parts_held,
    sd1_text_prefix,
    usable_parts,
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
    unet: TensorFile | None = None,
) -> ARTV:
    """Build the model that a checkpoint describes and load its weights, on `device` in `dtype`, in evaluation mode.

    Parts that the file lacks come from `base`, a public SD file of the model's family (1.x or 2.x) or another ARTV
    checkpoint. If `mask`, `vae` or `text` is in neither file, it is None. `without` lists optional parts to leave out.
    `operations` has the classes of layers to build the networks from, like `torch.nn`.

    `reader` replaces safetensors for reading the tensors. A tensor from it that has the right type and device becomes a
    weight of the model without a copy. Low-rank changes in the file ("lora") are added to the UNet's weights.

    `unet` holds the noise UNet of a public SD model in memory (`tensors_as_file`). It is used instead of one in the
    files, and its tensors become weights as they are: without a copy, on their own device, in their own type.

    Peak memory is that of the model plus at most 256 MiB. Raises ValueError if the file is not an ARTV checkpoint
    (truncated, pickled, of another kind), and on missing and unexpected keys and wrong shapes and types.
    """
    check_names(without, OPTIONAL_PARTS)
    file = open_file(path, reader)
    config = read_config(file)
    held = declared_parts(file, config)
    base_file = None if base is None else open_file(base, reader)
    given = {} if unet is None else {"unet": unet}
    wanted = [part for part in usable_parts(config, held) if part not in {*without, *given}]
    sources = given | _choose_sources(file, held, base_file, wanted, config.vae)

    plain = build_empty(file, config, sources, nn)  # a host's layers may have no tensors before they are loaded
    expected = expected_tensors(plain, lora_rank(file))
    check_tensors(file, [part for part in held if part not in without], expected, held, extras=())
    check_host_scale(file, config)
    state: dict[str, Tensor] = {}
    for source, slots in list(_checked_sources(file, (base_file, unet), sources, expected, config)):
        if source.path == (unet and unet.path):  # it may have been fitted
            state |= {slot.model_key: tensor.detach() for slot, tensor in read_slots(source, slots)}
        else:
            _read_into(state, source, slots, device, dtype)
    merge_lora(state)
    model = plain if operations is nn else build_empty(file, config, sources, operations)
    state |= _never_computed(model, state, device, dtype)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def _choose_sources(
    file: TensorFile, held: list[str], base: TensorFile | None, wanted: list[str], vae: VAEConfig
) -> dict[str, TensorFile]:
    """Choose the source of each wanted part: the file if it has it, else the base. An optional part may have none."""
    in_base = set() if base is None else parts_held(base, vae)
    sources = {}
    for part in wanted:
        if part in held:
            sources[part] = file
        elif base is not None and part in in_base:
            sources[part] = base
        elif part not in OPTIONAL_PARTS:
            called = f" ({one_line(file.metadata['artv_base'])})" if "artv_base" in file.metadata else ""
            found = f"{file.path} has no {PARTS[part]} and needs its base checkpoint{called}"
            if base is None:
                raise UserError(found, Remedy.BASE)
            raise ValueError(f"{found}: {base.path} has no {PARTS[part]} either")
    return sources


def _checked_sources(
    file: TensorFile,
    bases: Iterable[TensorFile | None],
    sources: Mapping[str, TensorFile],
    expected: dict[str, dict[str, Slot]],
    config: ARTVConfig,
) -> Iterator[tuple[TensorFile, Mapping[str, Slot]]]:
    """What to read from each file: first the parts of the checkpoint itself, then those of its `bases`, which are
    checked if anything comes from them. Raises ValueError if a base is of the wrong kind or does not fit."""
    for part in (part for part, source in sources.items() if source is file):
        yield file, expected[part]
    for base in (base for base in bases if base is not None):
        parts = [part for part, source in sources.items() if source is base]
        if not parts:
            continue
        check_base(base, parts, file.path, config)
        fitted, slots = fitted_file(base, parts, expected, config)
        for part in parts:
            yield fitted, slots[part]


def read_slots(file: TensorFile, slots: Mapping[str, Slot]) -> Iterator[tuple[Slot, Tensor]]:
    """Read the tensors for `slots` one by one, each with its slot. Skips tensors that only ComfyUI reads."""
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
    """Fill `state` with the tensors for `slots`, on `device` in `dtype`."""
    for slot, tensor in read_slots(file, slots):
        # The null context is an input, not a weight: it stays float32 even if weights have 8 bits.
        exact = slot.model_key == "null_context" or part_of(file_key(slot.model_key)) == "lora"
        kept = torch.float32 if exact else dtype
        moved = tensor.to(device, kept, copy=file.reader is None)
        if file.reader is None:  # a tensor from a host's reader may not be in memory yet
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
    """Zeros for the text encoder's last block, if it never runs and the file lacks it."""
    if model.text is None:
        return {}
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items() if name not in state}
    lacking = last_block(model.config.text, shapes, "text.model.")
    return {name: torch.zeros(shapes[name], device=device, dtype=dtype) for name in lacking}


# Single parts


def read_part(
    path: str | Path, part: str, *, base: str | Path | None = None, reader: Reader | None = None
) -> dict[str, Tensor]:
    """The tensors of one part (a name in `PARTS`) under the keys that ARTV writes, for a host that builds its own
    networks. They come from `base` if the file has none of them. The result is empty if neither file has the part.
    Without a `reader` the tensors are copies.

    For an ARTV checkpoint and its base, the checks are as strict as in `load_checkpoint`, except for the text encoder:
    its tensors depend on open_clip, which a host may not have. Raises ValueError if a file cannot be read or does not
    fit, also if the base is of another model family than the checkpoint at `path`.
    """
    check_names([part], PARTS)
    file = open_file(path, reader)
    config = read_config(file) if "artv_config" in file.metadata else None
    source = file
    if base is not None and part not in parts_held(file):
        source = open_file(base, reader)
    if part not in parts_held(source, None if source is file or config is None else config.vae):
        return {}
    if config is not None:
        source = _checked_part(source, part, file, config)
    tensors = _read_all(source, part)
    if part == "text" and config is not None and source is not file:
        tensors |= _last_block_as_zeros(tensors, config.text)
    return tensors


def _checked_part(source: TensorFile, part: str, file: TensorFile, config: ARTVConfig) -> TensorFile:
    """Check a part in `source`, which is the checkpoint `file` or its base. Returns the source, with adapted shapes if
    it is a base. Raises ValueError if the part is not as configured."""
    if source is not file:
        check_base(source, [part], file.path, config)
    if part == "text":
        return source
    expected = expected_tensors(build_empty(file, config, [part], nn), lora_rank(file))
    if source is not file:
        return fitted_file(source, [part], expected, config)[0]
    check_tensors(file, [part], expected, PARTS, extras=())
    return source


def _read_all(file: TensorFile, part: str) -> dict[str, Tensor]:
    """All tensors of a part under the keys that ARTV writes. They are copies, unless the file has a reader."""
    read = file.read(key for key in file.tensors if part_of(key) == part)
    found = {key: _in_common_type(tensor if file.reader else tensor.clone()) for key, tensor in read}
    prefix = sd1_text_prefix(file) if part == "text" else None
    if prefix is None:
        return found
    joined: dict[str, dict[int, Tensor]] = {}
    for key, tensor in found.items():
        artv_key, third = our_text_key(key, prefix)
        joined.setdefault(artv_key, {})[third] = tensor
    try:
        return {key: _cat([thirds[index] for index in sorted(thirds)]) for key, thirds in joined.items()}
    except RuntimeError:
        raise ValueError(f"{file.path} does not fit: its queries, keys and values differ in shape") from None


def _in_common_type(tensor: Tensor) -> Tensor:
    """Convert 8-bit floats to float16, without loss, and float64 to float32: ComfyUI does not take the others
    everywhere."""
    if tensor.dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        return tensor.to(torch.float16)
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _cat(tensors: list[Tensor]) -> Tensor:
    return torch.cat(tensors) if len(tensors) > 1 else tensors[0]


def _last_block_as_zeros(tensors: Mapping[str, Tensor], config: TextConfig) -> dict[str, Tensor]:
    """Zeros for the text encoder's last block, under the keys that ARTV writes, if it never runs and the file lacks it:
    a host builds it anyway. The shapes are those of the block before."""
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
    """Load TAESD's decoder from its public file. It maps latents [B, 4, h, w] in the model's scale to images
    [B, 3, 8h, 8w], not clamped. The file may have the keys of `taesd_decoder.safetensors`, of diffusers or of ARTV.
    Raises ValueError on any other file."""
    file = open_tensor_file(path)
    with hollow():
        decoder = TAESD().taesd_decoder
    expected = {key: tuple(tensor.shape) for key, tensor in decoder.state_dict().items()}
    named = {key: layer for key in file.tensors if (layer := _taesd_decoder_key(key)) is not None}
    found = {layer: file.tensors[key].shape for key, layer in named.items()}
    if found != expected:
        wanted = "TAESD's decoder for 4 latent channels (taesd_decoder.safetensors)"
        raise ValueError(f"{file.path} does not contain {wanted}")
    state = {named[key]: tensor.to(device, dtype, copy=True) for key, tensor in file.read(named)}
    decoder.load_state_dict(state, strict=True, assign=True)
    return decoder.eval().requires_grad_(False)


def _taesd_decoder_key(key: str) -> str | None:
    """The key in `TAESD.taesd_decoder`, or None. diffusers does not count the clamp at the beginning as a layer."""
    match = re.fullmatch(r"(taesd_decoder\.|decoder\.layers\.|)(\d{1,3})\.(.+)", key)
    if match is None:
        return None
    return f"{int(match[2]) + (match[1] == 'decoder.layers.')}.{match[3]}"
