"""How well a model denoises held-out frames: a steadier measure of training than any video made of many steps. Ours."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..method.conditioning import Conditioners, FrameInputs, NoisedLatents, frame_denoiser
from ..method.denoiser import GuidanceScales
from ..method.noise_schedule import NoiseSchedule
from ..method.randomness import normal, stream
from ..models.artv import ARTV

RATIOS = (0.25, 0.5, 1.0, 2.0, 5.0)
"""Noise-to-signal ratios at which it is measured."""


@torch.no_grad()
def denoising_error(
    model: ARTV,
    latents: Tensor,
    captions: Sequence[str],
    weight: Tensor,
    ratios: Sequence[float] = RATIOS,
    seed: int = 0,
) -> dict[str, float]:
    """Mean squared error of x_0 as guessed in one step, for first frames and for third ones.

    `latents` [N, 3, C, h, w] are true successive frames, core scale; the last one is noised and guessed, from its
    caption alone ("first frame at 0.5") and from the two before it besides ("third frame at 0.5"; the first of them is
    the anchor). `weight` [N, 1, h, w] says how much each cell counts.
    """
    schedule, target = NoiseSchedule(model.config.schedule), latents[:, -1].float()
    before = latents[:, :-1].float()
    noise = torch.stack([normal(tuple(target.shape[1:]), stream(seed, index)) for index in range(len(target))])
    context, share = model.encode_text(captions), weight / (weight.sum() * target.shape[1])
    errors = {}
    for name, given in (("first", False), ("third", True)):
        inputs = FrameInputs(
            context=context,
            null_context=model.null_context,
            references=NoisedLatents(before.flatten(1, 2) if given else torch.zeros_like(before.flatten(1, 2)), 0),
            anchor=NoisedLatents(before[:, 0] if given else torch.zeros_like(target), 0),
            reference_latent=before[:, -1] if given else None,
            has_anchor=given,
        )
        denoiser = frame_denoiser(schedule, Conditioners.of(model), inputs, GuidanceScales())
        for ratio in ratios:
            guess = denoiser(target + ratio * noise, torch.tensor(ratio))
            errors[f"{name} frame at {ratio:g}"] = float(((guess - target).square() * share).sum())
    return errors
