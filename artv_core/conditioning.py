"""What one frame is conditioned on, made ready for the denoiser: text by frame, noised references, noised anchor.

Everything here happens once per frame; the denoising steps only read it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .denoiser import Branch, GuidanceScales, MaskedDenoiser, guidance_branches
from .models.artv import ARTV
from .models.attention import KeysValues, TokenProjections
from .models.branches import Expansion
from .models.network import FrameConditions, FrameNetwork
from .prompts import PromptSpan
from .randomness import normal, stream
from .schedule import NoiseSchedule

RANGE_KEY, WEIGHT_KEY, FADE_KEY = "artv_range", "artv_weight", "artv_fade"
FOREVER = 2**62
"""A segment's end that no video reaches."""
MAX_WEIGHT = 1e6


@dataclass(frozen=True)
class TextSegment:
    """From frame `start` (absolute) to `end`, which is left out, the text is `context` [L, D], or [B, L, D] with a text
    for each video of the batch. No end means to the next segment, and to the end of the video for the last.

    Segments may overlap: a frame's text is then the mean of their contexts, weighted by `weight`, which rises through a
    segment's first `fade_in` frames and falls through its last `fade_out`, as in `PromptSpan`. Raises ValueError, one
    line, on frames and weights that cannot be.
    """

    start: int
    context: Tensor
    end: int | None = None
    weight: float = 1.0
    fade_in: int = 0
    fade_out: int = 0

    def __post_init__(self) -> None:
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            frames = f"frames {self.start} to {self.end} (left out)"
            raise ValueError(f"a prompt holds for {frames}; its start must be 0 or more, its end after its start")
        if not 1 / MAX_WEIGHT <= self.weight <= MAX_WEIGHT:
            raise ValueError(f"a prompt has weight {self.weight}; accepted are {1 / MAX_WEIGHT:g} to {MAX_WEIGHT:g}")
        if min(self.fade_in, self.fade_out) < 0:
            raise ValueError(f"a prompt fades in {self.fade_in} and out {self.fade_out} frames; give 0 or more")


class TextTrack:
    """The text of each frame; one that no segment covers goes on with the text of the frame before it.

    Raises ValueError unless the first segment starts at frame 0, and those without an end ascend.
    """

    def __init__(self, segments: Sequence[TextSegment]):
        starts = [segment.start for segment in segments]
        if not starts or min(starts) != 0:
            raise ValueError(f"prompts start at frames {starts}; the first must start at frame 0")
        if any(before.end is None and after.start <= before.start for before, after in pairwise(segments)):
            raise ValueError(f"prompts start at frames {starts}; each must start after the one before it")
        self.segments = tuple(segments)
        self._spans = [
            PromptSpan(segment.start, segment.end or next_start, segment.fade_in, segment.fade_out)
            for segment, next_start in zip(segments, [*starts[1:], FOREVER], strict=True)
        ]
        self._starts = frozenset(starts)

    @classmethod
    def from_conditioning(cls, entries: Iterable[Sequence[Any]]) -> "TextTrack":
        """From the host's CONDITIONING, a list of [context [1, L, D], dict], of whose keys these are read:

        `artv_range`: (start, end), the frames it counts for; end is left out, None is for ever; no key is all frames.
        `artv_weight`: its weight among those that cover a frame; no key is 1, and 0 is as if it were not there.
        `artv_fade`: (in, out), frames through which its weight rises and falls at its ends; no key is (0, 0).

        Raises ValueError, one line, where a key holds something else, and where nothing counts at frame 0.
        """
        return cls([_segment(context, keys) for context, keys in entries if keys.get(WEIGHT_KEY) != 0])

    def context(self, frame: int) -> Tensor:
        """Context tokens of a frame, [L, D] or [B, L, D]."""
        texts = self.texts(frame)
        return texts[0][0] if len(texts) == 1 else mean_context(texts)

    def texts(self, frame: int) -> list[tuple[Tensor, float]]:
        """The contexts that hold at a frame, each [L, D] or [B, L, D], with their weights (above 0)."""
        texts = self._weighted(frame)
        if not texts:  # after the end of one segment, before the start of the next
            texts = self._weighted(max(end for _, end, _, _ in self._spans if end is not None and end <= frame) - 1)
        return texts

    def starts_segment(self, frame: int) -> bool:
        """Whether a new prompt begins with this frame: whether any segment starts there."""
        return frame in self._starts

    def _weighted(self, frame: int) -> list[tuple[Tensor, float]]:
        texts = zip(self.segments, self._spans, strict=True)
        weighted = [(segment.context, segment.weight * span.weight(frame)) for segment, span in texts]
        return [(context, weight) for context, weight in weighted if weight > 0]


def mean_context(texts: Sequence[tuple[Tensor, float]]) -> Tensor:
    """Mean of contexts [L, D] or [B, L, D] by weight, in float32 on the way. Contexts of unequal length are first
    repeated to a common one, which attention does not notice. Raises ValueError on unequal widths."""
    widths = {context.shape[-1] for context, _ in texts}
    if len(widths) > 1:
        raise ValueError(f"prompts of widths {sorted(widths)} cannot be blended; encode them with one text encoder")
    length = math.lcm(*(context.shape[-2] for context, _ in texts))
    first, total = texts[0]
    mean = lengthened(first, length).float()
    for context, weight in texts[1:]:
        total += weight
        mean = torch.lerp(mean, lengthened(context, length).to(mean), weight / total)
    return mean.to(first.dtype)


def lengthened(context: Tensor, length: int) -> Tensor:
    """A context [..., L, D] repeated to a multiple of its length."""
    repeats = [1] * context.ndim
    repeats[-2] = length // context.shape[-2]
    return context if repeats[-2] == 1 else context.repeat(repeats)


def _segment(context: Tensor, keys: Mapping[str, Any]) -> TextSegment:
    start, end = _pair(keys, RANGE_KEY, (0, None))
    fade_in, fade_out = _pair(keys, FADE_KEY, (0, 0))
    weight = keys.get(WEIGHT_KEY, 1.0)
    if not isinstance(weight, int | float):
        raise ValueError(f"{WEIGHT_KEY} is {weight!r}; it must be a number")
    return TextSegment(
        start, context, end=FOREVER if end is None else end, weight=weight, fade_in=fade_in, fade_out=fade_out
    )


def _pair(keys: Mapping[str, Any], name: str, default: tuple[Any, Any]) -> tuple[Any, Any]:
    """Two whole numbers, of which the second may be None where its default is."""
    value = keys.get(name, default)
    kinds = (int, int | None if default[1] is None else int)
    if isinstance(value, tuple | list) and len(value) == 2 and all(map(isinstance, value, kinds)):
        return value[0], value[1]
    raise ValueError(f"{name} is {value!r}; it must be two whole numbers of frames")


@dataclass(frozen=True)
class NoisedLatents:
    """A condition after noise augmentation (paper, 3.3): the latents [B, C', h, w] and their integer level."""

    latents: Tensor
    level: int


def noised(
    schedule: NoiseSchedule, latents: Tensor, level: int, seeds: Sequence[int], *key: int | str
) -> NoisedLatents:
    """Corrupt latents [B, ...] to `level` with noise from each video's own stream (seed, *key)."""
    noise = torch.stack([normal(tuple(latents.shape[1:]), stream(seed, *key)) for seed in seeds])
    return NoisedLatents(schedule.augment(latents, noise.to(latents), level), level)


@dataclass(frozen=True)
class FrameInputs:
    """All a frame is conditioned on. `context` [L, D] or [B, L, D] and `null_context` [L, D] may be on any device;
    `references` [B, R*C, h, w] and `anchor` [B, C, h, w] are noised, or blank where absent; `reference_latent` is the
    clean frame to copy from. What holds for several frames is best given as the same tensor: see `Conditioner`."""

    context: Tensor
    null_context: Tensor
    references: NoisedLatents
    anchor: NoisedLatents
    reference_latent: Tensor | None
    has_anchor: bool


class Conditioner:
    """Makes a network's conditions, frame after frame; what frames and branches have in common is made only once. Ours.

    Kept from one frame to the next are blank references, the blank anchor, and the keys and values of a text for as
    long as `FrameInputs` hold the very same tensor. The network's weights must stay what they are.
    """

    def __init__(self, network: FrameNetwork) -> None:
        self.network = network
        self._blank_references: tuple[torch.Size, list[Tensor]] | None = None
        self._blank_anchor: tuple[torch.Size, list[KeysValues]] | None = None
        self._texts: list[tuple[Tensor, list[KeysValues]]] = []
        self._text_of_branches: tuple[tuple[Any, ...], list[KeysValues]] | None = None

    def conditions(self, inputs: FrameInputs, branches: Sequence[Branch]) -> FrameConditions:
        """Those of `branches` as one batch for the latents of B videos."""
        pairs = [
            (inputs.references.level * branch.references, inputs.anchor.level * branch.anchor) for branch in branches
        ]
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
        key = (*contexts, videos)
        if self._text_of_branches is None or not _same(self._text_of_branches[0], key):
            projections = self._projected(contexts)
            tokens = math.lcm(*(projected[0][0].shape[-2] for projected in projections))
            self._text_of_branches = (key, _one_batch(projections, videos, tokens))
        return self._text_of_branches[1]

    def _projected(self, contexts: Sequence[Tensor]) -> list[list[KeysValues]]:
        """Keys and values of each context, from the last call where it is still the same; no others are kept."""
        kept, self._texts = self._texts, []
        for context in contexts:
            known = [item for item in (*self._texts, *kept) if item[0] is context]
            if not known:
                tokens = context if context.ndim == 3 else context[None]
                tokens = tokens.to(self.network.device, self.network.dtype)
                known = [(context, self.network.diffusion_model.project_text(tokens))]
            self._texts.append(known[0])
        return [projected for _, projected in self._texts]

    def _anchor(self, inputs: FrameInputs, branches: Sequence[Branch]) -> list[KeysValues]:
        latents, projections = inputs.anchor.latents, {}
        if not all(branch.anchor for branch in branches):
            if self._blank_anchor is None or self._blank_anchor[0] != latents.shape:
                self._blank_anchor = (latents.shape, self._project_anchor(torch.zeros_like(latents[:1])))
            projections[False] = self._blank_anchor[1]
        if any(branch.anchor for branch in branches):
            projections[True] = self._project_anchor(latents)
        return _one_batch([projections[branch.anchor] for branch in branches], latents.shape[0])

    def _project_anchor(self, latents: Tensor) -> list[KeysValues]:
        tokens = self.network.anchor_encoder(latents.to(self.network.dtype))
        return self.network.diffusion_model.project_anchor(tokens)

    def _features(self, inputs: FrameInputs, branches: Sequence[Branch]) -> list[Tensor]:
        latents, features = inputs.references.latents, {}
        if not all(branch.references for branch in branches):
            if self._blank_references is None or self._blank_references[0] != latents.shape:
                self._blank_references = (latents.shape, self._adapt(torch.zeros_like(latents[:1])))
            features[False] = self._blank_references[1]
        if any(branch.references for branch in branches):
            features[True] = self._adapt(latents)
        maps = zip(*(features[branch.references] for branch in branches), strict=True)
        return [_concatenated(of_branches, latents.shape[0]) for of_branches in maps]

    def _adapt(self, latents: Tensor) -> list[Tensor]:
        return self.network.reference_adapter(latents.to(self.network.dtype))

    def _levels(self, pairs: Sequence[tuple[int, int]], videos: int) -> Tensor:
        levels = torch.tensor(pairs, device=self.network.device).repeat_interleave(videos, dim=0)
        return self.network.diffusion_model.embed_levels(levels[:, 0], levels[:, 1], self.network.dtype)


class Conditioners(NamedTuple):
    """One for each network of a model; no `mask` where nothing is to be copied."""

    noise: Conditioner
    mask: Conditioner | None

    @classmethod
    def of(cls, model: ARTV, use_mask: bool = True) -> "Conditioners":
        """Of a model's networks, with nothing made yet."""
        return cls(Conditioner(model.noise), Conditioner(model.mask) if use_mask and model.mask is not None else None)


def _same(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Whether these are the very same objects, and equal numbers."""
    return len(first) == len(second) and all(
        a is b or (isinstance(a, int) and a == b) for a, b in zip(first, second, strict=True)
    )


def _one_batch(branches: Sequence[list[KeysValues]], videos: int, tokens: int | None = None) -> list[KeysValues]:
    """Keys and values of K branches, each [1 or B, heads, tokens, d], as [K * B, ...]; repeated up to `tokens`."""
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
    """[1 or B, ...] of K branches to [K * B, ...]."""
    whole = [part.expand(videos, *part.shape[1:]) for part in parts]
    return whole[0] if len(whole) == 1 else torch.cat(whole)


def frame_denoiser(
    schedule: NoiseSchedule,
    conditioners: Conditioners,
    inputs: FrameInputs,
    scales: GuidanceScales,
    mix_mode: str = "after_guidance",
) -> MaskedDenoiser:
    """One frame's denoiser: guidance branches as one batch, mask network where there is a frame to copy."""
    noise, mask = conditioners
    branches = guidance_branches(scales, inputs.reference_latent is not None, inputs.has_anchor, True)
    mask_network, mask_conditions = None, None
    if mask is not None and inputs.reference_latent is not None:
        full = Branch(references=True, anchor=inputs.has_anchor, text=True)
        mixed = [branch for branch, _ in branches if branch.references] if mix_mode == "every_branch" else [full]
        mask_network, mask_conditions = mask.network, mask.conditions(inputs, mixed or [full])
    return MaskedDenoiser(
        schedule,
        noise.network,
        noise.conditions(inputs, [branch for branch, _ in branches]),
        branches,
        mask_network=mask_network,
        mask_conditions=mask_conditions,
        reference_latent=inputs.reference_latent if mask_network is not None else None,
        mix_mode=mix_mode,
        network_dtype=noise.network.dtype,
    )
