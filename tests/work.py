"""How much work a video is, counted and not timed. On the meta device nothing is computed, so any size will do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.flop_counter import flop_registry

from artv_core.config import ARTVConfig
from artv_core.method.denoiser import Shortcuts
from artv_core.method.options import GenerateOptions
from artv_core.method.samplers import num_evaluations
from artv_core.method.text_track import TextSegment, TextTrack
from artv_core.models.artv import ARTV
from artv_core.models.hollow import hollow
from tests.models import frames_of


@dataclass(frozen=True)
class Work:
    """`flops` are floating-point operations of convolutions, matrix products and attention, a multiplication and an
    addition being two; `kernels` the operators that compute something, each of which a GPU has to be told of;
    `network_calls` those of the noise and the mask network."""

    flops: int
    kernels: int
    network_calls: int

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.kernels + other.kernels, self.network_calls + other.network_calls)

    def __sub__(self, other: "Work") -> "Work":
        return self + other * -1

    def __mul__(self, times: int) -> "Work":
        return Work(self.flops * times, self.kernels * times, self.network_calls * times)


def count_work(model: ARTV, run: Callable[[], Any]) -> Work:
    """What `run()` does, which uses the networks of `model`."""

    def once() -> Iterator[Any]:
        yield run()

    return count_each(model, once())[0]


def count_each(model: ARTV, results: Iterator[Any]) -> list[Work]:
    """What it takes to come to each of the results in turn."""
    calls = 0

    def called(*_: Any) -> None:
        nonlocal calls
        calls += 1

    networks = [network for network in (model.noise, model.mask) if network is not None]
    hooks = [network.register_forward_hook(called) for network in networks]
    until = [Work(0, 0, 0)]
    try:
        with _Count() as count:
            for _ in results:
                until.append(Work(count.flops, count.kernels, calls))
    finally:
        for hook in hooks:
            hook.remove()
    return [later - earlier for earlier, later in pairwise(until)]


def video_work(config: ARTVConfig, options: GenerateOptions) -> tuple[Work, Work]:
    """(of the whole video, of one frame in its midst), sampled from a text with a network of that configuration.

    All evaluations of a frame are the same work, unless shortcuts are taken, and all frames but the first two; so a few
    are counted and the others follow. Text encoder and VAE are left out. Raises ValueError as `generate_frames`, and
    for fewer than three frames.
    """
    options = options.resolved(config)
    if options.num_frames < 3:
        raise ValueError(f"number of frames is {options.num_frames}; give 3 or more")
    with hollow():
        model = ARTV(config, vae=False, text=False).eval()
        text = TextTrack([TextSegment(0, torch.zeros_like(model.null_context))])

    def counted(steps: int) -> list[Work]:
        few = replace(options, num_frames=3, steps=steps)
        return count_each(model, frames_of(model, text, few))

    def of_all_steps() -> list[Work]:
        if options.shortcuts != Shortcuts():
            return counted(options.steps or 1)
        sampler, steps = options.sampler or "", options.steps or 1
        pace = num_evaluations(sampler, 2) - num_evaluations(sampler, 1)
        more = (num_evaluations(sampler, steps) - num_evaluations(sampler, 1)) // pace
        return [one + (two - one) * more for one, two in zip(counted(1), counted(2), strict=True)]

    first, second, later = of_all_steps()
    return first + second + later * (options.num_frames - 2), later


class _Count(TorchDispatchMode):
    """Counts operators, but those that only look at memory in another way, or take some, and their FLOPs.

    On the meta device, where nothing is computed, a call still takes a millisecond. One like another before is answered
    from memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.kernels += not (func.is_view or func.overloadpacket in _TAKE_MEMORY)
        key = _key(func, args, kwargs)
        if key in _ANSWERS:
            result, flops = _ANSWERS[key]
            result = tree_map_only(_Shape, _Shape.empty, result)
        else:
            result = func(*args, **kwargs)
            formula = flop_registry.get(func.overloadpacket)
            flops = formula(*args, **kwargs, out_val=result) if formula else 0
            if key is not None:
                _ANSWERS[key] = tree_map_only(Tensor, _Shape.of, result), flops
        self.flops += flops
        return result


@dataclass(frozen=True)
class _Shape:
    """What is to be said of a tensor on the meta device."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> "_Shape":
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype)

    def empty(self) -> Tensor:
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device="meta")


_ANSWERS: dict[Any, tuple[Any, int]] = {}


def _key(func: Any, args: Any, kwargs: Any) -> Any:
    """What the answer follows from; None where it is not a new tensor on the meta device."""
    if func.is_view or func._schema.is_mutable:
        return None
    leaves, structure = tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not tensors or not all(tensor.is_meta for tensor in tensors):
        return None
    said = (_Shape.of(leaf) if isinstance(leaf, Tensor) else (type(leaf), leaf) for leaf in leaves)
    return func, structure, tuple(said)


_TAKE_MEMORY = (torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.empty_strided, torch.ops.aten.detach)
