"""A Stable Diffusion model of the graph (the host's MODEL): the weights of its UNet before any patch, the patches on
them, and what else is on the model."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import comfy.model_base
import comfy.model_sampling
import torch
from torch import Tensor, nn

from ..artv_core.checkpoint import CheckpointSummary
from ..artv_core.checkpoint.checking import check_family as check_public_family
from ..artv_core.files.tensor_file import TensorFile, tensors_as_file
from .weights import is_dynamic

NAME = "the connected model"
"""What errors call a model of the graph."""

HOST_PREFIX, ARTV_PREFIX = "diffusion_model.", "noise.diffusion_model."
"""Where the UNet's weights are in the host's model and in the ARTV model. The names that follow are the same."""

_FILE_PREFIX = "model.diffusion_model."


def check_is_model(patcher: Any) -> None:
    """Raises ValueError if this is not a diffusion model of the host."""
    if patcher is None:
        raise ValueError(
            "no model is connected (MODEL is empty); connect one of Stable Diffusion 1.x or 2.x, from Load Checkpoint"
        )
    if not isinstance(getattr(getattr(patcher, "model", None), "diffusion_model", None), nn.Module):
        raise ValueError(f"{NAME} is not a diffusion model; connect one of Stable Diffusion 1.x or 2.x")


# Weights


def unpatched_unet(patcher: Any) -> dict[str, Tensor]:
    """The UNet's weights without patches, by their names in the UNet. They share their memory with the host's model.

    The host may have patched or moved its weights for a run. Then the original ones are in its backup, or the host is
    asked to put them back. Raises ValueError on quantised weights.
    """
    tensors = _state(patcher)
    if _must_be_put_back(patcher, tensors):
        patcher.detach()
        tensors = _state(patcher)
    for name, tensor in tensors.items():
        if type(tensor) is not Tensor:
            kind = type(tensor).__name__
            raise ValueError(f"{NAME} has quantised weights ({name} is a {kind}); load its float16 version")
    return {name: tensor.clone() for name, tensor in tensors.items()} if patcher.weight_inplace_update else tensors


def _state(patcher: Any) -> dict[str, Tensor]:
    with patcher.use_ejected():
        tensors = {_plain_name(name): tensor.detach() for name, tensor in _unet(patcher).state_dict().items()}
    for key, saved in patcher.backup.items():
        if key.startswith(HOST_PREFIX):
            tensors[key.removeprefix(HOST_PREFIX)] = saved.weight.detach()
    return tensors


def _unet(patcher: Any) -> nn.Module:
    """The UNet, also if another node has put something in its place, such as a compiled one."""
    return patcher.object_patches_backup.get(HOST_PREFIX.removesuffix("."), patcher.model.diffusion_model)


def _plain_name(name: str) -> str:
    return name.replace("_orig_mod.", "")  # added by torch.compile


def _must_be_put_back(patcher: Any, tensors: Mapping[str, Tensor]) -> bool:
    """Whether weights were changed in place, or are where the host only keeps them while they are used."""
    in_place = bool(patcher.hook_backup) or any(saved.inplace_update for saved in patcher.backup.values())
    away = any(tensor.device != torch.device(patcher.offload_device) for tensor in tensors.values())
    # A patcher that loads weights as they are used never moves them.
    return (in_place or away) and not is_dynamic(patcher)


def model_types(patcher: Any) -> dict[str, torch.dtype]:
    """By the names of the UNet's weights: the type that the host gives them when it loads them, where it notes one. It
    may differ from that of a weight which is still in its file."""
    found = {}
    for path, layer in _unet(patcher).named_modules():
        for name in ("weight", "bias"):
            dtype = getattr(layer, f"{name}_comfy_model_dtype", None)
            if dtype is not None and getattr(layer, name, None) is not None:
                found[_plain_name(f"{path}.{name}")] = dtype
    return found


def compute_type(patcher: Any) -> torch.dtype:
    """The type in which the host computes the model."""
    return patcher.get_model_object("manual_cast_dtype") or patcher.model.get_dtype()


def as_file(patcher: Any, unet: Mapping[str, Tensor]) -> TensorFile:
    """The UNet as a public Stable Diffusion file, for the checks of the core."""
    tensors = {_FILE_PREFIX + name: tensor for name, tensor in unet.items()}
    if isinstance(patcher.model, comfy.model_base.SD21UNCLIP):
        tensors["noise_augmentor.kind"] = torch.zeros(0)  # by such a name the core tells it from SDXL
    return tensors_as_file(NAME, tensors)


# Kind of model


def check_family(patcher: Any, summary: CheckpointSummary) -> None:
    """Raises ValueError if the model is of another family than the checkpoint needs. Looks at names and shapes only."""
    unet = {_plain_name(name): tensor for name, tensor in _unet(patcher).state_dict().items()}
    check_public_family(as_file(patcher, unet), summary.config, f"{summary.path} needs {{}}")


def check_prediction(patcher: Any, summary: CheckpointSummary) -> None:
    """Raises ValueError if the model predicts something else than the checkpoint was trained with."""
    found, wanted = prediction_of(patcher), summary.config.schedule.prediction
    if found != wanted:
        got, needed = _PREDICTIONS.get(found, found), _PREDICTIONS[wanted]
        raise ValueError(
            f"{NAME} predicts {got}, {summary.path} needs one that predicts {needed}; connect the model that it was "
            "trained on, or, if ComfyUI took the model for another kind, put ModelSamplingDiscrete before this node"
        )


_PREDICTIONS = {"eps": "noise (eps)", "v": "velocity (v_prediction)"}


def prediction_of(patcher: Any) -> str:
    """One of "eps" and "v", or the host's name for another kind. A node such as ModelSamplingDiscrete may have set
    it."""
    sampling, known = patcher.get_model_object("model_sampling"), comfy.model_sampling
    if isinstance(sampling, known.V_PREDICTION):
        return "EDM" if isinstance(sampling, known.EDM) else "v"
    if isinstance(sampling, known.EPS) and not isinstance(sampling, known.X0):
        return "eps"
    return type(sampling).__bases__[-1].__name__  # the host joins a schedule and a kind of prediction


# Patches and what is left out


def carried_patches(patcher: Any, names: Collection[str]) -> dict[str, list[Any]]:
    """The patches on the UNet's weights by their keys in the ARTV model, as far as those are in `names`."""
    keys = {key: ARTV_PREFIX + key.removeprefix(HOST_PREFIX) for key in patcher.patches if key.startswith(HOST_PREFIX)}
    return {new: list(patcher.patches[old]) for old, new in keys.items() if new in names}


def check_can_be_left_out(patcher: Any) -> None:
    """Raises ValueError if something on the model changes its weights in a way that cannot be carried over: without it
    the result would be another one than the user expects."""
    if "bypass_lora" in patcher.injections:
        raise ValueError(f"{NAME} has a LoRA in bypass mode, which works in ComfyUI's own sampler only; use Load LoRA")
    if patcher.weight_wrapper_patches:
        raise ValueError(
            f"{NAME} has weights that another node changes while they are used (weight wrappers), which cannot be "
            "carried over; connect the model before that node"
        )


def left_out(patcher: Any) -> str:
    """One line about what is on the model and has no effect on ARTV's sampler; empty if there is nothing."""
    found = [f"{kind} ({', '.join(sorted(names))})" for kind, names in _kinds(patcher).items()]
    return f"not used, because it is made for ComfyUI's own sampler: {'; '.join(found)}" if found else ""


def _kinds(patcher: Any) -> dict[str, set[str]]:
    kinds: dict[str, set[str]] = {}
    for kind, name in _extras(patcher):
        kinds.setdefault(kind, set()).add(str(name))
    return kinds


def _extras(patcher: Any) -> Iterator[tuple[str, str]]:
    """What is on the model apart from patches on weights: its kind in plain words, and the host's name for it."""
    inner = patcher.model_options.get("transformer_options", {})
    for name in (*inner.get("patches", {}), *inner.get("patches_replace", {})):
        yield ("attention patches" if name.startswith("attn") else "block patches"), name
    for name, value in inner.items():
        if value and name not in ("patches", "patches_replace", "wrappers", "callbacks"):
            yield "options", name
    for name, value in patcher.model_options.items():
        if value and name not in ("transformer_options", "disable_cfg1_optimization"):
            yield ("sampling functions" if name.startswith("sampler_") else "options"), name
    for wrappers in (patcher.wrappers, inner.get("wrappers", {})):
        yield from (("wrappers", name) for name, added in wrappers.items() if any(added.values()))
    yield from (("injections", name) for name, added in patcher.injections.items() if added)
    yield from _replaced(patcher)
    if patcher.hook_patches:
        yield "hooks", "weights by schedule"
    if any(not key.startswith(HOST_PREFIX) for key in patcher.patches):
        yield "patches", "outside the UNet"


def _replaced(patcher: Any) -> Iterator[tuple[str, str]]:
    """Parts of the model that nodes have replaced. Prediction and compute type are honoured and not listed."""
    for name in patcher.object_patches:
        if name == "model_sampling":
            kind = type(patcher.get_model_object(name)).__bases__
            if kind[-1] not in (comfy.model_sampling.EPS, comfy.model_sampling.V_PREDICTION):
                yield "sampling settings", kind[-1].__name__
        elif name != "manual_cast_dtype":
            yield "replaced parts", name
