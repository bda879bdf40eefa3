"""How much a mask network copies at each time step, and how much would be best, where nothing moves and where something
does (the paper's Fig. 4).

Measured on true frames of the synthetic worlds, where it is known which cells stand still. Not in the paper.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..method.conditioning import Conditioners, FrameInputs, frame_denoiser, noised
from ..method.denoiser import GuidanceScales
from ..method.noise_schedule import NoiseSchedule, static_x0
from ..method.randomness import normal, seeded_generator
from ..models.artv import ARTV
from ..synthetic.shapes import Clip, render
from .vae import unchanged_cells


class CopiedAt(NamedTuple):
    """What a mask network copies at one time step, over the still cells and over all others: `still` and `other` are
    the mean of its mask, `best_still` and `best_other` the one value for all these cells that mixes best (Eq. 7). NaN
    where there are no such cells."""

    still: float
    other: float
    best_still: float
    best_other: float


@torch.no_grad()
def mask_by_step(model: ARTV, clips: Sequence[Clip], timesteps: Sequence[int]) -> dict[int, CopiedAt]:
    """What the mask network copies at each time step, and what would be best.

    The third frame of each clip is noised to the time step; the two frames before it are its references, and the first
    is the anchor, at the checkpoint's noise levels. A cell is still if the pixels in it and within half a cell around
    it do not change from the second frame to the third. Raises ValueError if the model has no mask network.
    """
    if model.mask is None:
        raise ValueError(f"{model.config.name} has no mask network, so there is no mask to measure")
    frames = render(clips, 3, *model.config.size)
    still = unchanged_cells(frames[:, 1], frames[:, 2], model.config.vae.factor) > 0
    latents = [model.encode_images(frames[:, index].to(model.noise.device)) for index in range(3)]
    schedule, target = NoiseSchedule(model.config.schedule), latents[2]
    inputs = _inputs(model, schedule, [clip.caption for clip in clips], latents)
    masked, alone = (
        frame_denoiser(schedule, Conditioners.of(model, use_mask), inputs, GuidanceScales())
        for use_mask in (True, False)
    )
    noise = torch.stack([normal(tuple(target.shape[1:]), seeded_generator(0, clip)) for clip in range(len(clips))])
    noise, still = noise.to(target), still.to(target.device)
    found = {}
    for timestep in timesteps:
        sigma = schedule.sigmas[timestep]
        x = target + float(sigma) * noise
        masked(x, sigma)
        assert masked.mask is not None
        a = float((1 + sigma**2).rsqrt())
        static, dynamic = static_x0(schedule.static_form, latents[1], a * x, a, float(sigma) * a), alone(x, sigma)
        kinds = still, ~still
        own = (float(masked.mask[kind].mean()) for kind in kinds)
        found[timestep] = CopiedAt(*own, *(_best_mask(kind, static, dynamic, target) for kind in kinds))
    return found


def _best_mask(cells: Tensor, static: Tensor, dynamic: Tensor, target: Tensor) -> float:
    """The one mask in [0, 1] for all `cells` [B, 1, h, w] that brings the mix nearest to the target, by least squares.
    Latents [B, C, h, w] of one time step: x_0 and eps give the same mask."""
    toward_static = (static - dynamic) * cells
    return float(((target - dynamic) * toward_static).sum().div(toward_static.square().sum()).clamp(0, 1))


def _inputs(model: ARTV, schedule: NoiseSchedule, captions: list[str], latents: Sequence[Tensor]) -> FrameInputs:
    before, last = latents[:2]
    levels, seeds = model.config.sampling, list(range(len(captions)))
    both = torch.cat([before, last], dim=1)
    return FrameInputs(
        context=model.encode_text(captions),
        null_context=model.null_context,
        references=noised(schedule, both, levels.reference_noise_level, seeds, 2, "references"),
        anchor=noised(schedule, before, levels.anchor_noise_level, seeds, 2, "anchor"),
        reference_latent=last,
        has_anchor=True,
    )
