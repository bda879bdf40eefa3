"""Stage "diffusion": noise network, mask network and text encoder, trained end to end on latent clips (Eq. 4 and 7)."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..denoiser import mix
from ..models.artv import ARTV
from ..models.network import FrameNetwork
from ..randomness import normal, stream
from ..schedule import NoiseSchedule, x0_from_prediction
from ..synthetic import vocabulary
from .config import DiffusionStage, TrainConfig
from .data import LatentClips
from .sheets import rollout_sheet


@dataclass(frozen=True)
class Draw:
    """Which frames of which clip one sample uses, at which noise levels, and which conditions it keeps."""

    clip: int
    target: int
    references: tuple[int, ...]  # oldest first; empty for a first frame
    anchor: int | None
    caption_kept: bool
    timestep: int
    reference_level: int
    anchor_level: int
    rolled: bool


def draw_sample(
    config: DiffusionStage, rng: random.Random, num_clips: int, num_frames: int, num_references: int, ratios: Tensor
) -> Draw:
    """One sample's choices. A first frame is any frame without references; a second one sees its one predecessor
    repeated; any other sees the last two. The anchor is up to `anchor_window` frames back (paper: 10). `ratios` [steps]
    is the schedule's noise-to-signal ratio at each time step, ascending."""
    clip, kind = rng.randrange(num_clips), rng.random()
    position = rng.randrange(1, num_frames)
    if kind < config.first_share:
        references: tuple[int, ...] = ()
    elif kind < config.first_share + config.second_share or position < num_references:
        references = (position - 1,) * num_references
    else:
        references = tuple(range(position - num_references, position))
    window = config.anchor_window if kind >= config.first_share + config.second_share else 1
    anchor = rng.randrange(max(0, position - window), position) if references else None
    if rng.random() < config.drop_references:
        references = ()
    if rng.random() < config.drop_anchor:
        anchor = None
    return Draw(
        clip,
        position,
        references,
        anchor,
        rng.random() >= config.drop_text,
        _draw_timestep(config, rng, ratios),
        rng.randrange(config.max_noise_level + 1) if references else 0,
        rng.randrange(config.max_noise_level + 1) if anchor is not None else 0,
        rng.random() < config.rollout_share,
    )


def _draw_timestep(config: DiffusionStage, rng: random.Random, ratios: Tensor) -> int:
    uniform = rng.randrange(len(ratios))
    if rng.random() < config.uniform_share:
        return uniform
    ratio = config.ratio_median * math.exp(config.ratio_spread * rng.gauss(0, 1))
    return min(int(torch.searchsorted(ratios, ratio)), len(ratios) - 1)


class MaskedDiffusionLoss(nn.Module):
    """Eq. 4 on the masked prediction of Eq. 7, written in x_0 space: an error of eps is a/s of x_0's, one of v 1/s, so
    the squared error of x_0 is weighted by a^2/s^2 or 1/s^2. Both are capped, for a copied x_0 does not get better as s
    falls. A share of the loss is the noise network's own, which keeps it learning where the mask copies. Cap and share
    are ours.
    """

    def __init__(self, model: ARTV, stage: DiffusionStage) -> None:
        super().__init__()
        assert model.text is not None
        self.noise, self.mask, self.text = model.noise, model.mask, model.text
        self.prediction = model.config.schedule.prediction
        self.auxiliary_share, self.weight_cap = stage.auxiliary_share, stage.weight_cap
        self.detail_weight = stage.detail_weight

    def forward(
        self,
        target: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        a: Tensor,
        s: Tensor,
        tokens: Tensor,
        references: Tensor,
        reference_level: Tensor,
        anchor: Tensor,
        anchor_level: Tensor,
        reference_latent: Tensor,
        has_reference: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Latents [B, C, h, w] (references [B, R*C, h, w], noised), time steps and levels [B], tokens [B, L].

        `a` and `s` [B, 1, 1, 1] are the schedule's at the time steps: looked up beforehand, for a GPU would wait.
        """
        context = self.text(tokens)
        x_t = a * target + s * noise
        conditions = (context, references, anchor, reference_level, anchor_level)
        prediction = _run(self.noise, x_t, timesteps, conditions)
        dynamic = x0_from_prediction(self.prediction, prediction, x_t, a, s)
        denoised, logs = dynamic, {}
        if self.mask is not None:
            logits = _run(self.mask, x_t, timesteps, conditions)
            mask = logits.sigmoid() * has_reference[:, None, None, None]
            denoised = mix(mask, reference_latent, dynamic)
            logs["mask"] = mask.detach().sum() / (mask[0].numel() * has_reference.sum()).clamp(min=1)
        weight = ((a / s).square() if self.prediction == "eps" else s.pow(-2)).clamp(max=self.weight_cap)
        if self.detail_weight:
            weight = weight * (1 + self.detail_weight * unlikeness(target))
        main = (weight * (denoised - target).square()).mean()
        own = (weight * (dynamic - target).square()).mean()
        logs |= {"masked": main.detach(), "own": own.detach()}
        return (1 - self.auxiliary_share) * main + self.auxiliary_share * own, logs


def unlikeness(latent: Tensor) -> Tensor:
    """How unlike the most common one each cell of [B, C, h, w] is: [B, 1, h, w], from 0 to (not with) 1. Ours.

    In a frame of one object before a plain ground it is near 1 on the object, which is few of the cells and hard.
    """
    typical = latent.flatten(2).median(dim=-1).values[..., None, None]
    distance = (latent - typical).square().sum(dim=1, keepdim=True)
    return distance / (distance + 1)


def _run(network: FrameNetwork, x_t: Tensor, timesteps: Tensor, conditions: Sequence[Tensor]) -> Tensor:
    return network(x_t, timesteps, network.condition(*conditions)).float()


class DiffusionTraining:
    """The stage as the loop wants it."""

    name = "diffusion"

    def __init__(self, config: TrainConfig, model: ARTV, clips: LatentClips) -> None:
        assert model.text is not None
        self.config, self.seed, self.run = config.diffusion, config.seed, config
        self.model, self.clips = model, clips
        self.schedule = NoiseSchedule(model.config.schedule)
        signal, noise = self.schedule.scales(torch.arange(self.schedule.num_timesteps), ndim=1)
        self.ratios = noise / signal
        self.num_references = model.config.noise.adapter.num_references
        self.captions = model.text.tokenize(list(clips.captions))
        self.no_caption = model.text.tokenize([""])[0]
        self.module = MaskedDiffusionLoss(model, config.diffusion).to(memory_format=torch.channels_last)

    def batch(self, step: int, indices: range) -> tuple[Tensor, ...]:
        """Arguments of `MaskedDiffusionLoss.forward` for the samples `indices`, keyed by (seed, step, index)."""
        draws = [self._draw(step, index) for index in indices]
        latents = self.clips.latents
        blank = torch.zeros(latents.shape[2:])
        num_references = self.num_references
        noise = torch.stack([
            normal((num_references + 2, *blank.shape), stream(self.seed, step, index)) for index in indices
        ])  # fmt: skip

        def frame(draw: Draw, index: int | None) -> Tensor:
            if index is None:
                return blank
            source = self.clips.rollouts if draw.rolled and self.clips.rollouts is not None else latents
            return source[draw.clip, index].float()

        references = torch.stack([
            torch.stack([frame(draw, index) for index in draw.references or (None,) * num_references]) for draw in draws
        ])  # fmt: skip
        anchor = torch.stack([frame(draw, draw.anchor) for draw in draws])
        timesteps = torch.tensor([draw.timestep for draw in draws])
        reference_level = torch.tensor([draw.reference_level for draw in draws])
        anchor_level = torch.tensor([draw.anchor_level for draw in draws])
        return (
            torch.stack([latents[draw.clip, draw.target].float() for draw in draws]),
            noise[:, -1],
            timesteps,
            *self.schedule.scales(timesteps),
            torch.stack([self.captions[draw.clip] if draw.caption_kept else self.no_caption for draw in draws]),
            self.schedule.augment(references, noise[:, :num_references], reference_level).flatten(1, 2),
            reference_level,
            self.schedule.augment(anchor, noise[:, num_references], anchor_level),
            anchor_level,
            references[:, -1],
            torch.tensor([float(bool(draw.references)) for draw in draws]),
        )

    def _draw(self, step: int, index: int) -> Draw:
        num_clips, num_frames = self.clips.latents.shape[:2]
        rng = random.Random(f"{self.seed}/{step}/{index}")
        draw = draw_sample(self.config, rng, num_clips, num_frames, self.num_references, self.ratios)
        if draw.rolled and self.clips.rollouts is not None:
            draw = replace(draw, clip=draw.clip % len(self.clips.rollouts))
        return draw

    def sheet(self, averaged: nn.Module, step: int, folder: Path) -> Mapping[str, float]:
        """Held-out prompts rolled out by the averaged networks."""
        assert isinstance(averaged, MaskedDiffusionLoss)
        path = folder / f"sheet-{step:06d}.png"
        return rollout_sheet(
            with_networks(self.model, averaged), path, self.config.sheet_rows, self.config.sheet_columns
        )


def with_networks(model: ARTV, trained: MaskedDiffusionLoss) -> ARTV:
    """A model for sampling: the trained networks and text encoder beside the VAE of `model`."""
    result = ARTV(model.config, mask=False, vae=False, text=False)
    result.noise, result.mask, result.text, result.vae = trained.noise, trained.mask, trained.text, model.vae
    result.to(next(trained.noise.parameters()).device)
    result.update_null_context()
    return result.eval()


def initialise(model: ARTV, stage: DiffusionStage) -> None:
    """Before the first step: the mask network starts by copying little, and words never captioned mean nothing."""
    if model.mask is not None:
        nn.init.constant_(model.mask.diffusion_model.out[2].bias, stage.mask_bias)  # type: ignore[arg-type]
    assert model.text is not None
    known = model.text.tokenize([" ".join(chunk) for chunk in _chunks(vocabulary(), 8)]).unique()
    embedding = model.text.model.token_embedding.weight
    with torch.no_grad():
        seen = torch.zeros(embedding.shape[0], 1)
        seen[known] = 1
        embedding.mul_(seen)


def _chunks(words: Sequence[str], size: int) -> list[Sequence[str]]:
    return [words[start : start + size] for start in range(0, len(words), size)]
