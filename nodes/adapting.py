"""An ARTV model from a Stable Diffusion model of the graph and the parts that an ARTV file adds to it."""

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
from torch import Tensor

from ..artv_core.checkpoint import CheckpointSummary, describe_checkpoint, load_checkpoint
from ..artv_core.models.artv import ARTV
from ..artv_core.speed.compiled import Compiled
from . import graph_model
from .loading import (
    STORAGE_DTYPES,
    Place,
    Types,
    add_own_lora,
    can_be_made_again,
    choose_place,
    chosen_types,
    network_weights,
    ready,
)
from .weights import LoadedARTV, is_dynamic


class AdaptedARTV(LoadedARTV):
    """A `LoadedARTV` whose UNet is that of a model of the graph. It is only a type.

    `graph_weights` are the shared weights by their keys in this model. `channels_last` says in which layout kernels are
    kept on the card. `left_out` is `graph_model.left_out`.
    """

    graph_weights: dict[str, Tensor]
    channels_last: bool
    left_out: str


class SharingPatcher(comfy.model_patcher.ModelPatcher):
    """A plain patcher of an `AdaptedARTV`. When the host takes the model off the card, the shared weights come back,
    where the host's own patcher would keep copies."""

    def load(self, *args: Any, **kwargs: Any) -> None:
        """Load as the host does, and give kernels on the card the layout that is fastest there."""
        super().load(*args, **kwargs)
        if self.model.channels_last and not self.model.model_lowvram:
            self.model.to(memory_format=torch.channels_last)

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> None:
        """Take patches off as the host does, and share the graph's weights again."""
        if unpatch_weights:
            self._share(lambda old, shared: old.device != shared.device)
        super().unpatch_model(device_to, unpatch_weights)
        if unpatch_weights:
            self._share(lambda old, shared: old.data_ptr() != shared.data_ptr())

    def _share(self, wanted: Callable[[Tensor, Tensor], bool]) -> None:
        for key, shared in self.model.graph_weights.items():
            # The host puts back what it has in its backup.
            if key not in self.backup and wanted(comfy.utils.get_attr(self.model, key), shared):
                comfy.utils.set_attr_param(self.model, key, shared)


def adapt_model(base: Any, path: str, compiled: bool = False, graph: bool = True) -> Any:
    """The noise and mask networks as the host's model patcher, as from `loading.load_model`, with the UNet of `base` (a
    MODEL of the graph) and all else from the ARTV file at `path`.

    Weights of the UNet are shared with the graph's model, and the patches on it (LoRA) are on the result too. Raises
    ValueError if there is no model, if it is of another family or size or predicts something else than the file needs,
    and as `Compiled` and `load_checkpoint` do.
    """
    graph_model.check_is_model(base)
    summary = describe_checkpoint(path)
    with _with_advice(summary):
        graph_model.check_family(base, summary)
    graph_model.check_prediction(base, summary)
    graph_model.check_can_be_left_out(base)
    compute = graph_model.compute_type(base)
    with _with_advice(summary):
        patcher = _joined(base, path, compute, compiled, graph)
    adapted = patcher.model
    adapted.left_out = graph_model.left_out(base)
    patcher.patches = graph_model.carried_patches(base, adapted.graph_weights)
    patcher.patches_uuid = uuid.uuid4()
    add_own_lora(patcher, path)
    patcher.force_cast_weights = base.force_cast_weights
    if getattr(base, "cached_patcher_init", None) is not None:
        can_be_made_again(patcher, adapt_again, base.cached_patcher_init, path, compute, compiled, graph)
    return patcher


def adapt_again(
    made: tuple[Any, ...],
    path: str,
    compute: torch.dtype,
    compiled: bool,
    graph: bool,
    disable_dynamic: bool = False,
) -> Any:
    """A second copy of an adapted model, without its patches, from a second copy of the graph's model. `made` says how
    the host makes that: a function, its arguments, and the index of the patcher if it returns several things."""
    base = made[0](*made[1], disable_dynamic=disable_dynamic)
    return _joined(base[made[2]] if len(made) > 2 else base, path, compute, compiled, graph, disable_dynamic)


def _joined(
    base: Any, path: str, compute: torch.dtype, compiled: bool, graph: bool, disable_dynamic: bool = False
) -> Any:
    """A patcher without patches around the UNet of `base` and the rest of the file."""
    device, offload = base.load_device, base.offload_device
    way = Compiled(device, graph=graph) if compiled else None
    summary = describe_checkpoint(path)
    unet, noted = graph_model.unpatched_unet(base), graph_model.model_types(base)
    types = Types(_storage(base, summary), compute)
    place = choose_place(
        summary.config,
        _count(summary, unet),
        types,
        device,
        offload,
        must_be_plain=compiled or disable_dynamic,
        graph=graph,
    )
    if is_dynamic(base) and not place.dynamic:  # only the former casts weights that are still in the file's type
        unet = {name: tensor.to(noted.get(name, tensor.dtype)) for name, tensor in unet.items()}
    model = _load(base, summary, unet, types.storage, place)
    keyed_types = {graph_model.ARTV_PREFIX + name: dtype for name, dtype in noted.items()}
    adapted = cast(AdaptedARTV, ready(model, types.compute, device, way, graph, keyed_types))
    _note_types(adapted, noted)
    adapted.channels_last = place.on_card
    adapted.graph_weights = {graph_model.ARTV_PREFIX + name: tensor for name, tensor in unet.items()}
    kind = place.kind if place.dynamic else SharingPatcher
    return kind(adapted, load_device=device, offload_device=offload)


def _storage(base: Any, summary: CheckpointSummary) -> torch.dtype:
    """The type in which to store what the file adds: that of the graph's model, or, where that is too coarse, the one
    that the host chooses."""
    storage = base.model.get_dtype()
    if storage in STORAGE_DTYPES:
        return cast(torch.dtype, storage)
    return chosen_types(base.load_device, network_weights(summary), summary).storage


def _count(summary: CheckpointSummary, unet: Mapping[str, Tensor]) -> int:
    own = network_weights(summary) - summary.parameters.get("unet", 0)
    return own + sum(tensor.numel() for tensor in unet.values())


def _load(
    base: Any, summary: CheckpointSummary, unet: Mapping[str, Tensor], storage: torch.dtype, place: Place
) -> ARTV:
    return load_checkpoint(
        summary.path,
        unet=graph_model.as_file(base, unet),
        device="cpu" if place.dynamic else base.offload_device,
        dtype=storage,
        operations=comfy.ops.manual_cast,
        without=("lora", "vae", "text"),
        reader=comfy.utils.load_torch_file if place.dynamic else None,
    )


def _note_types(model: AdaptedARTV, noted: Mapping[str, torch.dtype]) -> None:
    """Tell the host in which type to load the UNet's weights, where it noted one on its own layers."""
    for name, dtype in noted.items():
        path, _, weight = name.rpartition(".")
        setattr(model.noise.diffusion_model.get_submodule(path), f"{weight}_comfy_model_dtype", dtype)


# Errors


@contextmanager
def _with_advice(summary: CheckpointSummary) -> Iterator[None]:
    """Inside the block, errors about the graph's model are short and say what to do."""
    try:
        yield
    except ValueError as error:
        said = str(error)
        if not said.startswith(graph_model.NAME):
            raise
        if fault := _MISFIT.match(said):
            said = f"{graph_model.NAME} has a UNet of another size or kind than {summary.path} needs: {fault[1]}"
        raise ValueError(f"{said}; {_advice(summary)}") from None


_MISFIT = re.compile(rf"{graph_model.NAME} does not fit: .*?(\S+ \(got .*?, expected .*?\))")
"""An error of `load_checkpoint`, which lists many weights, and the first of those that differ."""


def _advice(summary: CheckpointSummary) -> str:
    if summary.base is None and "unet" in summary.parts:
        return "this ARTV file is a model of its own: choose one that was trained on a Stable Diffusion model"
    return "connect the model that this ARTV file was trained on"
