"""References made by the model itself, so that it learns to continue from its own frames. Not in the paper."""

import torch
from torch import Tensor

from ..method.conditioning import Conditioners, FrameInputs, frame_denoiser, noised
from ..method.denoiser import GuidanceScales
from ..method.noise_schedule import NoiseSchedule
from ..method.randomness import normal, seeded_generator
from ..method.samplers import gaussian_noise, get_sampler
from ..models.artv import ARTV
from .config import DiffusionStage


@torch.no_grad()
def go_on(
    model: ARTV, references: Tensor, context: Tensor, rolled: Tensor, seeds: Tensor, stage: DiffusionStage
) -> Tensor:
    """References [B, R, C, h, w]. For samples that are `rolled` [B] they are replaced by frames that the networks make
    from them in their current state: `rollout_frames` further frames, with the oldest reference as the anchor, at the
    recommended noise levels, with noise from `seeds` [B]. `rolled` and `seeds` are on the CPU."""
    chosen = rolled.nonzero().flatten()
    if not len(chosen):
        return references
    numbers, chosen = seeds[chosen].tolist(), chosen.to(references.device)
    frames = references[chosen]
    for k in range(stage.rollout_frames):
        latent = _next_frame(model, frames, context[chosen], references[chosen, 0], numbers, k, stage.rollout_steps)
        frames = torch.cat([frames[:, 1:], latent[:, None]], dim=1)
    return references.index_copy(0, chosen, frames)


def _next_frame(
    model: ARTV, frames: Tensor, context: Tensor, anchor: Tensor, seeds: list[int], k: int, steps: int
) -> Tensor:
    schedule, sampling = NoiseSchedule(model.config.schedule), model.config.sampling
    inputs = FrameInputs(
        context=context,
        null_context=context[0],  # all guidance scales are 1, so no branch runs without text
        references=noised(schedule, frames.flatten(1, 2), sampling.reference_noise_level, seeds, k, "references"),
        anchor=noised(schedule, anchor, sampling.anchor_noise_level, seeds, k, "anchor"),
        reference_latent=frames[:, -1],
        has_anchor=True,
    )
    denoiser = frame_denoiser(schedule, Conditioners.of(model), inputs, GuidanceScales())
    sigmas = schedule.sampling_sigmas(steps)
    start = torch.stack([normal(tuple(anchor.shape[1:]), seeded_generator(seed, k, "initial")) for seed in seeds])
    x = start.to(anchor) * float(sigmas[0])
    noise = gaussian_noise([seeded_generator(seed, k, "sampler") for seed in seeds], x)
    return get_sampler("dpmpp_2m")(denoiser, x, sigmas, noise_sampler=noise)
