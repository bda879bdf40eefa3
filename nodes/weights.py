"""Loaded weights under the host's memory management: their digest, when they are loaded, and how evaluations run."""

import hashlib
import json
import logging
from typing import Any, NamedTuple

import comfy.model_management as memory
import torch
from torch import Tensor, nn

from ..artv_core.config import ARTVConfig
from ..artv_core.method.denoiser import FrameTask, NetworkResult, Reuse, RunNetworks, run_networks
from ..artv_core.method.options import GenerateOptions
from ..artv_core.models.artv import ARTV
from ..artv_core.models.fused import fuse, unfuse
from ..artv_core.run.recording import tensor_digest
from ..artv_core.speed.compiled import Compiled
from ..artv_core.speed.graphs import Captured, why_not

logger = logging.getLogger(__name__)

MOST_LOADS = 2
"""After this many loads of the model in one run, capturing graphs again would cost more time than it saves."""


class LoadedARTV(ARTV):
    """An `ARTV` with fields that the nodes set. It is only a type: the reader of checkpoints makes plain `ARTV`
    objects."""

    weights_digest: str
    trained: bool
    compiled: Compiled | None
    graph: bool


def is_dynamic(patcher: Any) -> bool:
    """Whether the patcher loads weights as they are used. Older hosts have no such patchers."""
    return bool(getattr(patcher, "is_dynamic", bool)())


def activation_bytes(config: ARTVConfig, options: GenerateOptions, dtype: torch.dtype) -> int:
    """A generous estimate in bytes: up to four guidance branches, each with about sixty feature maps of the finest
    level in memory."""
    factor, channels = config.vae.factor, config.noise.unet.model_channels
    cells = ((options.height or 0) // factor) * ((options.width or 0) // factor)
    return 4 * options.batch_size * cells * channels * 60 * dtype.itemsize


# What will be sampled with


def run_weights(patcher: Any) -> str:
    """A digest of the weights that the host will sample with: those of the file, and the patches (LoRA) on them."""
    patches = {str(key): _plain(patch) for key, patch in patcher.patches.items()}
    text = json.dumps([patcher.model.weights_digest, patches], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _plain(value: Any) -> Any:
    """A patch as lists, numbers and digests of tensors; the same in every process."""
    if isinstance(value, Tensor):
        return tensor_digest(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return [type(value).__name__, _plain(getattr(value, "weights", getattr(value, "__qualname__", repr(value))))]


# One run


class Loaded:
    """Has the host load a patcher's content, and load it again only if it was removed since.

    Each request has a cost: the host frees memory, and a patcher that loads weights as they are used moves its small
    ones again.
    """

    def __init__(self, patcher: Any) -> None:
        self.patcher = patcher
        self._held: int | None = None

    def note(self) -> None:
        """Call when the host has just loaded it."""
        self._held = self._now()

    @property
    def is_there(self) -> bool:
        """Whether it is still loaded as it was when `note` was called."""
        among = any(patcher is self.patcher for patcher in memory.loaded_models())
        return among and self._held is not None and self._now() >= self._held

    def _now(self) -> int:
        # Not the patcher's own sum: weights that are loaded as they are used can go, and come back on their own.
        return int(self.patcher.model.model_loaded_weight_memory)


class Way(NamedTuple):
    """How a run's evaluations are made ("compiled", "captured" or "plain"), and what the log says about it."""

    name: str
    reason: str


def choose_way(*, compiled: bool, graph: bool, device: str, dynamic: bool, missing: int) -> Way:
    """The way to evaluate. `compiled` and `graph` are the loader's switches, `device` the kind of device, `dynamic`
    whether weights are loaded as they are used, `missing` how many bytes of them are not permanently on the device."""
    plain, lack = "running without CUDA graphs: ", f"{missing / 2**20:.0f} MB of the weights are not on the card"
    if compiled and (not missing or device != "cuda"):
        return Way("compiled", "running the compiled networks")
    if not compiled and not graph:
        return Way("plain", plain + "graph is off where the model is loaded")
    if device != "cuda":
        return Way("plain", f"{plain}CUDA graphs need an NVIDIA card, this is {device}")
    if dynamic:
        return Way("plain", plain + "the card had no room for the whole model, so weights are loaded as they are used")
    if missing:
        return Way("plain", plain + lack)
    return Way("captured", "running with CUDA graphs: all weights are on the card")


class Evaluations:
    """Context manager: the weights of one run, loaded when it begins, and the way its evaluations are made.

    A captured graph contains the addresses of weights, and keeps memory. So graphs are dropped when the run ends, or
    when the weights move.
    """

    def __init__(self, patcher: Any, options: GenerateOptions) -> None:
        self._patcher = patcher
        self._model: LoadedARTV = patcher.model
        self._loaded = Loaded(patcher)
        self._run_networks: RunNetworks = run_networks
        self._way, self._said, self._loads = "", "", 0
        self._captured: Any = None
        for network in (self._model.noise, self._model.mask):
            if network is not None:
                network.compute_device = patcher.load_device  # nodes of the host may have changed it
        self._bytes = activation_bytes(self._model.config, options, self._model.noise.dtype)

    def __enter__(self) -> "Evaluations":
        self._load()
        return self

    def __exit__(self, *_: Any) -> None:
        self._drop()

    def make_sure(self) -> None:
        """Call this after anything that may have made the host load something else, such as a VAE."""
        if not self._loaded.is_there:
            self._load()

    @property
    def function(self) -> RunNetworks:
        """Has the signature of `denoiser.run_networks` and always uses the current way. It is marked so that a journal
        can tell compiled runs from others."""

        def run(task: FrameTask, x: Tensor, level: Tensor, reuse: tuple[Reuse, Reuse] | None = None) -> NetworkResult:
            return self._run_networks(task, x, level, reuse)

        if self._way == "compiled":
            run.plain_name = type(self._model.compiled).__name__  # type: ignore[attr-defined]
        return run

    def _load(self) -> None:
        self._drop()
        memory.load_models_gpu([self._patcher], memory_required=self._bytes)
        self._loaded.note()
        device, dynamic = torch.device(self._patcher.load_device), is_dynamic(self._patcher)
        missing = 0 if dynamic else missing_bytes(self._model, device)
        self._fuse_layers(device, all_there=not dynamic and not missing)
        way = choose_way(
            compiled=self._model.compiled is not None,
            graph=self._model.graph,
            device=device.type,
            dynamic=dynamic,
            missing=missing,
        )
        self._loads += 1
        if way.name == "captured" and self._loads > MOST_LOADS:
            way = Way("plain", "running without CUDA graphs: the weights are taken off the card between frames")
        if way.name == "captured" and (obstacle := why_not(device)):
            option = " (start ComfyUI with --disable-cuda-malloc)" if "cudaMallocAsync" in obstacle else ""
            way = Way("plain", f"running without CUDA graphs: {obstacle}{option}")
        if way.reason != self._said:
            logger.info("ARTV: %s", way.reason)
        self._way, self._said = way.name, way.reason
        if way.name == "captured":
            self._run_networks = self._captured = Captured(device, stops=(memory.InterruptProcessingException,))
        elif way.name == "compiled" and self._model.compiled is not None:
            self._run_networks = self._model.compiled

    def _fuse_layers(self, device: torch.device, all_there: bool) -> None:
        # A fused layer reads its weights directly, so the host must have no patches left to apply to them.
        if all_there and device.type == "cuda":
            fuse(self._model, device, self._model.noise.dtype)
        else:
            unfuse(self._model)

    def _drop(self) -> None:
        for holder in (self._captured, self._model.compiled):
            if holder is not None:
                holder.reset()
        self._captured, self._run_networks = None, run_networks


def missing_bytes(model: nn.Module, device: torch.device) -> int:
    """Bytes of a plain patcher's weights that are not on the device, or that the host patches each time they are
    used."""
    missing = 0
    for layer in model.modules():
        at_use = getattr(layer, "weight_function", ()) or getattr(layer, "bias_function", ())
        for weight in layer.parameters(recurse=False):
            if at_use or weight.device.type != device.type:
                missing += weight.nbytes
    return missing
