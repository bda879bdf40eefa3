"""How much a mask network copies at each time step, where nothing moves and where something does (the paper's Fig. 4).

Measured on true frames of the synthetic worlds, where it is known which cells stand still. Not in the paper.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..method.conditioning import Conditioners, FrameInputs, frame_denoiser, noised
from ..method.denoiser import GuidanceScales
from ..method.noise_schedule import NoiseSchedule
from ..method.randomness import normal, seeded_generator
from ..models.artv import ARTV
from ..synthetic.shapes import Clip, render
from .vae import unchanged_cells


@torch.no_grad()
def mask_by_step(model: ARTV, clips: Sequence[Clip], timesteps: Sequence[int]) -> dict[int, tuple[float, float]]:
    """The mean of the mask over still cells and over all others, for each time step.

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
    denoiser = frame_denoiser(schedule, Conditioners.of(model), inputs, GuidanceScales())
    noise = torch.stack([normal(tuple(target.shape[1:]), seeded_generator(0, clip)) for clip in range(len(clips))])
    noise, still = noise.to(target), still.to(target.device)
    found = {}
    for timestep in timesteps:
        sigma = schedule.sigmas[timestep]
        denoiser(target + float(sigma) * noise, sigma)
        assert denoiser.mask is not None
        found[timestep] = float(denoiser.mask[still].mean()), float(denoiser.mask[~still].mean())
    return found


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
