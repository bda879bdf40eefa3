"""Loading a checkpoint's networks into the host's model patcher: where weights are kept, in which types, and by which
kind of patcher."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import comfy.lora
import comfy.model_management as memory
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
from torch import nn

from ..artv_core.checkpoint import CheckpointSummary, describe_checkpoint, load_checkpoint, read_part
from ..artv_core.config import ARTVConfig
from ..artv_core.method.options import GenerateOptions
from ..artv_core.models.artv import ARTV
from ..artv_core.run.recording import weights_digest
from ..artv_core.speed.compiled import Compiled
from .weights import LoadedARTV, activation_bytes, is_dynamic

STORAGE_DTYPES = [torch.float16, torch.bfloat16, torch.float32]
"""Types in which the host may keep weights, best first."""

ROOM = 2**30
"""Bytes that a card must have free, on top of weights and activations, to keep the whole model on it."""


def load_model(
    path: str, base: str | None, compiled: bool = False, graph: bool = True, disable_dynamic: bool = False
) -> Any:
    """The noise and mask networks of a checkpoint as the host's model patcher; its `model` is the `ARTV`.

    The host chooses where the weights are, in which type they are stored and in which type they are computed. VAE and
    text encoder use the host's own classes. `compiled` says whether to compile the networks, `graph` whether
    evaluations may be captured. With `disable_dynamic` the patcher is a plain one, which the host requests if weights
    must stay in place. Raises ValueError as `Compiled` and `load_checkpoint` do.
    """
    device, offload = memory.get_torch_device(), memory.unet_offload_device()
    way = Compiled(device, graph=graph) if compiled else None
    summary = describe_checkpoint(path)
    count = network_weights(summary)
    types = chosen_types(device, count, summary)
    place = choose_place(
        summary.config, count, types, device, offload, must_be_plain=compiled or disable_dynamic, graph=graph
    )
    model = load_checkpoint(
        path,
        base=base,
        device="cpu" if place.dynamic else offload,
        dtype=types.storage,
        operations=comfy.ops.manual_cast,
        without=("lora", "vae", "text"),
        # A dynamic patcher never writes to the weights, so they can stay in the file's memory map.
        reader=comfy.utils.load_torch_file if place.dynamic else None,
    )
    loaded = ready(model, types.compute, device, way, graph)
    if place.on_card:
        loaded.to(memory_format=torch.channels_last)
    patcher = place.kind(loaded, load_device=device, offload_device=offload)
    add_own_lora(patcher, path)
    can_be_made_again(patcher, load_model, path, base, compiled, graph)
    return patcher


def add_own_lora(patcher: Any, path: str) -> None:
    """Put the low-rank changes in a checkpoint on the patcher of its networks, as the host's own patches (LoRA)."""
    tensors, names = {}, {}
    for key, tensor in read_part(path, "lora").items():
        layer, _, kind = key.rpartition(".")
        tensors[f"{layer}.{kind}.weight"] = tensor
        names[layer] = f"noise.{layer.removeprefix('model.')}.weight"
    if tensors:
        patcher.add_patches(comfy.lora.load_lora(tensors, names, log_missing=False))


def can_be_made_again(patcher: Any, load: Any, *arguments: Any) -> None:
    """Tell the host how to load a second copy of the patcher's content: `load(*arguments, disable_dynamic=...)` returns
    a patcher. The host does this for another device, and for hooks that need weights to stay in place. Older hosts
    never do."""
    if hasattr(patcher, "cached_patcher_init"):
        patcher.cached_patcher_init = (load, arguments)


def ready(
    model: ARTV,
    compute: torch.dtype,
    device: torch.device,
    way: Compiled | None,
    graph: bool,
    types: Mapping[str, torch.dtype] | None = None,
) -> LoadedARTV:
    """The model with the fields of a `LoadedARTV`, ready for a patcher that computes on `device`. `types` is as in
    `weights_digest`."""
    loaded = cast(LoadedARTV, model)
    loaded.requires_grad_(False)
    loaded.weights_digest = weights_digest(loaded, types)  # now, as the host may patch the weights in place later
    loaded.trained = _is_trained(loaded)
    loaded.compiled, loaded.graph = way, graph
    for network in (loaded.noise, loaded.mask):
        if network is not None:
            network.compute_device, network.compute_dtype = device, compute
    return loaded


# Types


class Types(NamedTuple):
    """In which type weights are stored, and in which one they are computed."""

    storage: torch.dtype
    compute: torch.dtype


def network_weights(summary: CheckpointSummary) -> int:
    """How many weights of the networks a file has."""
    return sum(summary.parameters.get(part, 0) for part in ("unet", "branches", "mask"))


def chosen_types(device: torch.device, count: int, summary: CheckpointSummary) -> Types:
    """The types that the host chooses for `count` weights of the file."""
    storage = memory.unet_dtype(
        device=device, model_params=count, supported_dtypes=STORAGE_DTYPES, weight_dtype=_stored_dtype(summary.dtypes)
    )
    return Types(storage, memory.unet_manual_cast(storage, device, STORAGE_DTYPES) or storage)


def _stored_dtype(names: Sequence[str]) -> torch.dtype | None:
    """The single dtype of a file, by safetensors' name; None if it has several."""
    dtypes = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
    return dtypes.get(names[0]) if len(names) == 1 else None


# Kinds of patchers


class Place(NamedTuple):
    """The class of patcher to use; whether it loads weights as they are used; whether the whole model is to stay on
    the card."""

    kind: Any
    dynamic: bool
    on_card: bool


def choose_place(
    config: ARTVConfig,
    count: int,
    types: Types,
    device: torch.device,
    offload: torch.device,
    *,
    must_be_plain: bool,
    graph: bool,
) -> Place:
    """How to keep `count` weights. A plain patcher is used where evaluations can be captured (`graph`), which needs the
    whole model on the card, and where it must be."""
    usual = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    free = _free_for_all_of_it(usual, device, offload)
    whole = device.type == "cuda" and whole_model_bytes(config, count * types.storage.itemsize, types.compute) < free
    plain = must_be_plain or (graph and whole)
    kind = comfy.model_patcher.ModelPatcher if plain else usual
    return Place(kind, _is_dynamic(kind, device, offload), plain and whole)


def whole_model_bytes(config: ARTVConfig, weights: int, dtype: torch.dtype) -> int:
    """Bytes that a card must have free to keep all `weights` (bytes) on it while frames of the checkpoint's size are
    made, with a margin."""
    height, width = config.size
    options = GenerateOptions(height=height, width=width)
    return weights * 5 // 4 + activation_bytes(config, options, dtype) + ROOM


def _free_for_all_of_it(kind: Any, device: torch.device, offload: torch.device) -> float:
    """Bytes of the device that are free or that the host would free. The host gives up weights that it loads as they
    are used."""
    patcher = kind(nn.Module(), load_device=device, offload_device=offload)
    ask = getattr(patcher, "get_free_memory", memory.get_free_memory)
    return float(ask(device))


def _is_dynamic(kind: Any, device: torch.device, offload: torch.device) -> bool:
    """Whether patchers of this kind load weights as they are used. Only the patcher itself knows, because it depends on
    the device."""
    return is_dynamic(kind(nn.Module(), load_device=device, offload_device=offload))


# Training


def _is_trained(model: ARTV) -> bool:
    """Whether training has changed the last layers of the reference adapter, which are zero at first."""
    closing = [tensor for name, tensor in model.state_dict().items() if name.startswith(_CLOSING)]
    return any(bool(tensor.float().any()) for tensor in closing)


_CLOSING = "noise.reference_adapter.zero_out."
