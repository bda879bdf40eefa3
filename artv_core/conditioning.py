"""What one frame is conditioned on, made ready for the denoiser: text by frame, noised references, noised anchor.

Everything here happens once per frame; the denoising steps only read it.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .denoiser import Branch, GuidanceScales, MaskedDenoiser, guidance_branches
from .models.network import FrameConditions, FrameNetwork
from .randomness import normal, stream
from .schedule import NoiseSchedule


@dataclass(frozen=True)
class TextSegment:
    """From frame `start` (absolute) to the next segment, the text is `context` [L, D], or [B, L, D] with a text for
    each video of the batch."""

    start: int
    context: Tensor


class TextTrack:
    """The text of each frame. Raises ValueError unless segments start at frame 0 and ascend."""

    def __init__(self, segments: Sequence[TextSegment]):
        starts = [segment.start for segment in segments]
        if not starts or starts[0] != 0:
            raise ValueError(f"prompts start at frames {starts}; the first must start at frame 0")
        if any(later <= earlier for earlier, later in pairwise(starts)):
            raise ValueError(f"prompts start at frames {starts}; each must start after the one before it")
        self.segments = tuple(segments)
        self._starts = starts

    def context(self, frame: int) -> Tensor:
        """Context tokens of a frame, [L, D] or [B, L, D]."""
        return self.segments[bisect_right(self._starts, frame) - 1].context

    def starts_segment(self, frame: int) -> bool:
        """Whether a new prompt begins with this frame."""
        return frame in self._starts


@dataclass(frozen=True)
class NoisedLatents:
    """A condition after noise augmentation (paper, 3.3): the latents [B, C', h, w] and their integer level."""

    latents: Tensor
    level: int

    def blank(self) -> "NoisedLatents":
        """The absent condition: zero latents at level 0 (ours)."""
        return NoisedLatents(torch.zeros_like(self.latents), 0)


def noised(
    schedule: NoiseSchedule, latents: Tensor, level: int, seeds: Sequence[int], *key: int | str
) -> NoisedLatents:
    """Corrupt latents [B, ...] to `level` with noise from each video's own stream (seed, *key)."""
    noise = torch.stack([normal(tuple(latents.shape[1:]), stream(seed, *key)) for seed in seeds])
    return NoisedLatents(schedule.augment(latents, noise.to(latents), level), level)


@dataclass(frozen=True)
class FrameInputs:
    """All a frame is conditioned on. `context` and `null_context` are [B, L, D] and [L, D]; `references` [B, R*C, h, w]
    and `anchor` [B, C, h, w] are noised, or blank where absent; `reference_latent` is the clean frame to copy from."""

    context: Tensor
    null_context: Tensor
    references: NoisedLatents
    anchor: NoisedLatents
    reference_latent: Tensor | None
    has_anchor: bool


def frame_denoiser(
    schedule: NoiseSchedule,
    noise_network: FrameNetwork,
    mask_network: FrameNetwork | None,
    inputs: FrameInputs,
    scales: GuidanceScales,
    mix_mode: str = "after_guidance",
) -> MaskedDenoiser:
    """One frame's denoiser: guidance branches as one batch, mask network where there is a frame to copy."""
    branches = guidance_branches(scales, inputs.reference_latent is not None, inputs.has_anchor, True)
    mask_conditions = None
    if inputs.reference_latent is None:
        mask_network = None
    if mask_network is not None:
        full = Branch(references=True, anchor=inputs.has_anchor, text=True)
        mixed = [branch for branch, _ in branches if branch.references] if mix_mode == "every_branch" else [full]
        mask_conditions = condition_branches(mask_network, inputs, mixed or [full])
    return MaskedDenoiser(
        schedule,
        noise_network,
        condition_branches(noise_network, inputs, [branch for branch, _ in branches]),
        branches,
        mask_network=mask_network,
        mask_conditions=mask_conditions,
        reference_latent=inputs.reference_latent if mask_network is not None else None,
        mix_mode=mix_mode,
        network_dtype=next(noise_network.parameters()).dtype,
    )


def condition_branches(network: FrameNetwork, inputs: FrameInputs, branches: Sequence[Branch]) -> FrameConditions:
    """The conditions of `branches` as one batch, branch-major [branches * B]."""
    batch = inputs.context.shape[0]
    null = inputs.null_context.expand(batch, -1, -1).to(inputs.context)
    references = [inputs.references if branch.references else inputs.references.blank() for branch in branches]
    anchors = [inputs.anchor if branch.anchor else inputs.anchor.blank() for branch in branches]
    dtype, device = next(network.parameters()).dtype, inputs.context.device
    return network.condition(
        torch.cat([inputs.context if branch.text else null for branch in branches]).to(dtype),
        torch.cat([condition.latents for condition in references]).to(dtype),
        torch.cat([condition.latents for condition in anchors]).to(dtype),
        torch.tensor([condition.level for condition in references for _ in range(batch)], device=device),
        torch.tensor([condition.level for condition in anchors for _ in range(batch)], device=device),
    )
