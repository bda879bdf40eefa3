"""Sampling as the formulas say it, with nothing shared and nothing kept: what `artv_core.method.generate` is held
against, in its results and in its work. Every network runs in every branch at every evaluation, from the references
on."""

from collections.abc import Iterator

import torch
from torch import Tensor

from artv_core.config import ARTVConfig
from artv_core.method.conditioning import noised
from artv_core.method.denoiser import mix
from artv_core.method.generate import latent_shape
from artv_core.method.noise_schedule import NoiseSchedule
from artv_core.method.options import GenerateOptions, level_at, seeds_at
from artv_core.method.randomness import normal, seeded_generator
from artv_core.method.samplers import gaussian_noise, get_sampler
from artv_core.method.text_track import TextTrack
from artv_core.models.artv import ARTV
from artv_core.models.network import FrameNetwork
from tests.work import Work, count_work

PAPER = GenerateOptions(
    steps=25,
    sampler="dpmpp_2s_ancestral",
    guidance_references=1.3,
    guidance_anchor=1.6,
    guidance_text=7.5,
    first_frame_guidance=7.5,
)
"""The paper's sampler, with scales for which every branch of Eq. 8 is needed."""

BRANCHES = ((False, False, False), (True, False, False), (True, True, False), (True, True, True))
"""Whether references, anchor and text are given, in the order of Eq. 8."""


@torch.no_grad()
def naive_frames(model: ARTV, text: TextTrack, options: GenerateOptions) -> Iterator[Tensor]:
    """Latents [B, C, h, w] of a video that starts from nothing, its first frame the anchor of all others."""
    options = options.resolved(model.config)
    schedule = NoiseSchedule(model.config.schedule)
    frames: list[Tensor] = []
    for index in range(options.num_frames):
        denoiser = NaiveDenoiser(model, schedule, text.context(index), frames, options)
        sigmas = schedule.sampling_sigmas(options.steps or 0, options.spacing)
        x = normals(denoiser.references[:, : model.config.vae.latent_channels], options, index, "initial")
        noise = gaussian_noise([seeded_generator(seed, index, "sampler") for seed in seeds_at(options, index)], x)
        sampler = get_sampler(options.sampler or "")
        frames.append(sampler(denoiser, x * float(sigmas[0]), sigmas, noise_sampler=noise, eta=options.eta or 0.0))
        yield frames[-1]


class NaiveDenoiser:
    """`denoised = D(x, sigma)` for frame number `len(frames)`."""

    def __init__(
        self, model: ARTV, schedule: NoiseSchedule, context: Tensor, frames: list[Tensor], options: GenerateOptions
    ) -> None:
        assert model.mask is not None
        self.model, self.mask_network, self.schedule, self.options = model, model.mask, schedule, options
        self.first, index = not frames, len(frames)
        seeds, dtype = seeds_at(options, index), model.noise.dtype
        blank = torch.zeros(latent_shape(model, options), dtype=dtype, device=model.noise.device)
        last = frames[-1] if frames else blank
        before = torch.cat([frames[-2] if index > 1 else last, last], dim=1)
        anchor = frames[0] if frames else blank
        self.levels = [
            level_at(level or 0, index) for level in (options.reference_noise_level, options.anchor_noise_level)
        ]
        if self.first:
            self.levels = [0, 0]
        self.references = noised(schedule, before, self.levels[0], seeds, index, "references").latents
        self.anchor = noised(schedule, anchor, self.levels[1], seeds, index, "anchor").latents
        videos = len(seeds)
        self.context = context.to(blank).expand(videos, -1, -1)
        self.null_context = model.null_context.to(blank).expand(videos, -1, -1)
        self.reference_latent = last

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """[B, C, h, w] -> the same shape."""
        a = float((1 + sigma**2) ** -0.5)
        x_t, timesteps = x * a, self.schedule.timestep(sigma).float().to(x.device).expand(x.shape[0])
        s = torch.full((x.shape[0], 1, 1, 1), float(sigma) * a, dtype=x.dtype, device=x.device)
        denoised, masks = [], []
        for branch in BRANCHES:
            prediction = self._run(self.model.noise, x_t, timesteps, branch)
            if self.schedule.prediction == "eps":
                denoised.append((x_t - s * prediction) / a)
            else:
                denoised.append(a * x_t - s * prediction)
            masks.append(self._run(self.mask_network, x_t, timesteps, branch).sigmoid())
        if self.options.mix_mode == "every_branch" and not self.first:
            denoised[1:] = [mix(m, self.reference_latent, d) for m, d in zip(masks[1:], denoised[1:], strict=True)]
        guided = self._guide(denoised)
        if self.options.mix_mode == "every_branch" or self.first:
            return guided
        return mix(masks[-1], self.reference_latent, guided)

    def _guide(self, denoised: list[Tensor]) -> Tensor:
        nothing, references, anchor, text = denoised
        options = self.options
        scale = options.first_frame_guidance if self.first else options.guidance_text
        return (
            nothing
            + (options.guidance_references or 0.0) * (references - nothing)
            + (options.guidance_anchor or 0.0) * (anchor - references)
            + (scale or 0.0) * (text - anchor)
        )

    def _run(self, network: FrameNetwork, x_t: Tensor, timesteps: Tensor, branch: tuple[bool, bool, bool]) -> Tensor:
        has_references, has_anchor, has_text = branch
        level = torch.ones(x_t.shape[0], dtype=torch.long, device=x_t.device)
        conditions = network.condition(
            self.context if has_text else self.null_context,
            self.references * has_references,
            self.anchor * has_anchor,
            level * self.levels[0] * has_references,
            level * self.levels[1] * has_anchor,
        )
        return network(x_t, timesteps, conditions)


def normals(like: Tensor, options: GenerateOptions, *key: int | str) -> Tensor:
    """Standard normal numbers like `like` [B, ...], each video's from its own stream."""
    return torch.stack(
        [normal(tuple(like.shape[1:]), seeded_generator(seed, *key)) for seed in seeds_at(options, int(key[0]))]
    ).to(like)


def naive_work(config: ARTVConfig, latent: tuple[int, int]) -> Work:
    """Of both networks in one branch at one evaluation, conditions included."""
    with torch.device("meta"):
        model = ARTV(config, vae=False, text=False).eval()
        x, level = torch.zeros(1, config.vae.latent_channels, *latent), torch.zeros(1, dtype=torch.long)
        references, context = x.repeat(1, config.noise.adapter.num_references, 1, 1), model.null_context[None]

    def both() -> None:
        for network in (model.noise, model.mask):
            assert network is not None
            network(x, level.float(), network.condition(context, references, x, level, level))

    return count_work(model, both)
