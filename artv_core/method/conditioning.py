"""Prepares the conditions of one frame for the denoiser: text, noised references, noised anchor.

This is done once per frame. The denoising steps only read the result.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..models.artv import ARTV
from ..models.attention import KeysValues, TokenProjections
from ..models.expansion import Expansion
from ..models.network import FrameConditions, FrameNetwork
from .denoiser import (
    Branch,
    GuidanceScales,
    Levels,
    MaskedDenoiser,
    RunNetworks,
    Shortcuts,
    guidance_branches,
    run_networks,
)
from .noise_schedule import NoiseSchedule
from .randomness import normal, seeded_generator
from .text_track import lengthened
from .transfer import to_device

Made = TypeVar("Made")


@dataclass(frozen=True)
class NoisedLatents:
    """A condition after noise augmentation (paper, 3.3): the latents [B, C', h, w] and their integer level."""

    latents: Tensor
    level: int


def noised(
    schedule: NoiseSchedule, latents: Tensor, level: int, seeds: Sequence[int], *key: int | str
) -> NoisedLatents:
    """Add noise to latents [B, ...] up to the time step `level`. Video b's noise comes from a generator with the key
    (seeds[b], *key)."""
    noise = torch.stack([normal(tuple(latents.shape[1:]), seeded_generator(seed, *key)) for seed in seeds])
    noise = to_device(noise, latents.device, latents.dtype)
    return NoisedLatents(schedule.augment(latents, noise, level), level)


@dataclass(frozen=True)
class FrameInputs:
    """The conditions of one frame. `context` [L, D] or [B, L, D] and `null_context` [L, D] may be on any device.
    `references` [B, R*C, h, w] and `anchor` [B, C, h, w] are noised, or blank if absent. `reference_latent` is the
    clean frame to copy from. `noisier_references` are needed for history guidance only. If a text is the same for
    several frames, pass the same tensor object for speed: see `Conditioner`."""

    context: Tensor
    null_context: Tensor
    references: NoisedLatents
    anchor: NoisedLatents
    reference_latent: Tensor | None
    has_anchor: bool
    noisier_references: NoisedLatents | None = None

    def references_of(self, branch: Branch) -> NoisedLatents:
        """The references that a branch sees; blank ones have level 0."""
        if branch.noisier:
            assert self.noisier_references is not None
            return self.noisier_references
        return self.references if branch.references else NoisedLatents(torch.zeros_like(self.references.latents[:1]), 0)


class Conditioner:
    """Computes a network's conditions for each frame, and shares work between frames and branches. Not in the paper.

    It keeps the results for blank references, for the blank anchor and for noise levels, and the keys and values of a
    text while `FrameInputs` has the same tensor object for it. The network's weights must not change meanwhile.
    """

    def __init__(self, network: FrameNetwork) -> None:
        self.network = network
        self._blank_references, self._blank_anchor = _Recent[list[Tensor]](1), _Recent[list[KeysValues]](1)
        self._texts, self._text_of_branches = _Recent[list[KeysValues]](4), _Recent[list[KeysValues]](2)
        self._embedded_levels = _Recent[Tensor](2)

    def conditions(self, inputs: FrameInputs, branches: Sequence[Branch]) -> FrameConditions:
        """The conditions of K `branches` as one batch [K * B], for the latents of B videos."""
        pairs = [(inputs.references_of(branch).level, inputs.anchor.level * branch.anchor) for branch in branches]
        distinct = list(dict.fromkeys(pairs))
        videos = inputs.references.latents.shape[0]
        return FrameConditions(
            TokenProjections(self._text(inputs, branches, videos), self._anchor(inputs, branches)),
            self._features(inputs, branches),
            self._levels(distinct, videos),
            Expansion(videos, tuple(distinct.index(pair) for pair in pairs)),
        )

    def _text(self, inputs: FrameInputs, branches: Sequence[Branch], videos: int) -> list[KeysValues]:
        contexts = [inputs.context if branch.text else inputs.null_context for branch in branches]

        def together() -> list[KeysValues]:
            projections = [
                self._texts.get((context,), lambda context=context: self._project_text(context))  # type: ignore[misc]
                for context in contexts
            ]
            tokens = math.lcm(*(projected[0][0].shape[-2] for projected in projections))
            return _one_batch(projections, videos, tokens)

        return self._text_of_branches.get((*contexts, videos), together)

    def _project_text(self, context: Tensor) -> list[KeysValues]:
        tokens = context if context.ndim == 3 else context[None]
        return self.network.diffusion_model.project_text(to_device(tokens, self.network.device, self.network.dtype))

    def _anchor(self, inputs: FrameInputs, branches: Sequence[Branch]) -> list[KeysValues]:
        latents, projections = inputs.anchor.latents, {}
        if not all(branch.anchor for branch in branches):
            blank = torch.zeros_like(latents[:1])
            projections[False] = self._blank_anchor.get(tuple(blank.shape), lambda: self._project_anchor(blank))
        if any(branch.anchor for branch in branches):
            projections[True] = self._project_anchor(latents)
        return _one_batch([projections[branch.anchor] for branch in branches], latents.shape[0])

    def _project_anchor(self, latents: Tensor) -> list[KeysValues]:
        tokens = self.network.anchor_encoder(latents.to(self.network.dtype))
        return self.network.diffusion_model.project_anchor(tokens)

    def _features(self, inputs: FrameInputs, branches: Sequence[Branch]) -> list[Tensor]:
        features: dict[tuple[bool, bool], list[Tensor]] = {}
        for branch in branches:
            kind = (branch.references, branch.noisier)
            if kind not in features:
                features[kind] = self._features_of(branch, inputs.references_of(branch).latents)
        maps = zip(*(features[branch.references, branch.noisier] for branch in branches), strict=True)
        return [_concatenated(of_branches, inputs.references.latents.shape[0]) for of_branches in maps]

    def _features_of(self, branch: Branch, latents: Tensor) -> list[Tensor]:
        if branch.references:
            return self._adapt(latents)
        return self._blank_references.get(tuple(latents.shape), lambda: self._adapt(latents))

    def _adapt(self, latents: Tensor) -> list[Tensor]:
        return self.network.reference_adapter(latents.to(self.network.dtype))

    def _levels(self, pairs: Sequence[tuple[int, int]], videos: int) -> Tensor:
        def embedded() -> Tensor:
            levels = to_device(torch.tensor(pairs).repeat_interleave(videos, dim=0), self.network.device)
            return self.network.diffusion_model.embed_levels(levels[:, 0], levels[:, 1], self.network.dtype)

        return self._embedded_levels.get((*itertools.chain(*pairs), videos), embedded)


class Conditioners(NamedTuple):
    """One conditioner for each network of a model. `mask` is None if nothing is to be copied."""

    noise: Conditioner
    mask: Conditioner | None

    @classmethod
    def of(cls, model: ARTV, use_mask: bool = True) -> "Conditioners":
        """New conditioners for a model's networks."""
        return cls(Conditioner(model.noise), Conditioner(model.mask) if use_mask and model.mask is not None else None)


class _Recent(Generic[Made]):
    """A small cache of recent results. A key matches if its tensors are the same objects and its numbers are equal."""

    def __init__(self, size: int) -> None:
        self._items: deque[tuple[tuple[Tensor | int, ...], Made]] = deque(maxlen=size)

    def get(self, key: tuple[Tensor | int, ...], make: Callable[[], Made]) -> Made:
        found = [item for item in self._items if _same(item[0], key)]
        if found:
            self._items = deque((item for item in self._items if item is not found[0]), self._items.maxlen)
        self._items.append(found[0] if found else (key, make()))
        return self._items[-1][1]


def _same(first: Sequence[Tensor | int], second: Sequence[Tensor | int]) -> bool:
    return len(first) == len(second) and all(
        a is b or (isinstance(a, int) and isinstance(b, int) and a == b) for a, b in zip(first, second, strict=True)
    )


def _one_batch(branches: Sequence[list[KeysValues]], videos: int, tokens: int | None = None) -> list[KeysValues]:
    """Join keys and values of K branches, each [1 or B, heads, n, d], to [K * B, heads, n, d]. With `tokens`, repeat
    the n tokens of each branch up to this number."""
    return [
        (
            _concatenated([_lengthened(keys, tokens) for keys, _ in attention], videos),
            _concatenated([_lengthened(values, tokens) for _, values in attention], videos),
        )
        for attention in zip(*branches, strict=True)
    ]


def _lengthened(projected: Tensor, tokens: int | None) -> Tensor:
    return projected if tokens is None else lengthened(projected, tokens)


def _concatenated(parts: Sequence[Tensor], videos: int) -> Tensor:
    """Join K tensors [1 or B, ...] to one [K * B, ...]."""
    whole = [part.expand(videos, *part.shape[1:]) for part in parts]
    return whole[0] if len(whole) == 1 else torch.cat(whole)


def frame_denoiser(
    schedule: NoiseSchedule,
    conditioners: Conditioners,
    inputs: FrameInputs,
    scales: GuidanceScales,
    mix_mode: str = "after_guidance",
    shortcuts: Shortcuts = Shortcuts(),  # noqa: B008
    run_networks: RunNetworks = run_networks,
    levels: Levels | None = None,
) -> MaskedDenoiser:
    """The denoiser of one frame. It runs the guidance branches as one batch, and the mask network if there is a frame
    to copy from."""
    noise, mask = conditioners
    branches = guidance_branches(scales, inputs.reference_latent is not None, inputs.has_anchor, True)
    if inputs.reference_latent is None:
        mask = None
    full = Branch(references=inputs.reference_latent is not None, anchor=inputs.has_anchor, text=True)
    mixed = [branch for branch, _ in branches if branch.references] if mix_mode == "every_branch" else [full]
    unguided = None
    if shortcuts.limits_guidance:
        unguided = (noise.conditions(inputs, [full]), None if mask is None else mask.conditions(inputs, [full]))
    return MaskedDenoiser(
        schedule,
        noise.network,
        noise.conditions(inputs, [branch for branch, _ in branches]),
        branches,
        mask_network=None if mask is None else mask.network,
        mask_conditions=None if mask is None else mask.conditions(inputs, mixed or [full]),
        reference_latent=None if mask is None else inputs.reference_latent,
        mix_mode=mix_mode,
        unguided=unguided,
        shortcuts=shortcuts,
        run_networks=run_networks,
        network_dtype=noise.network.dtype,
        levels=levels,
    )
