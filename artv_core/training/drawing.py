"""Draws a whole batch of samples at once on the device, from clips whose latents are in its memory.

`samples.draw_sample` makes the same choices on the host, one sample after another. The distribution is the same, but
here each batch is keyed by (seed, step) instead of each sample. So a resumed run draws the same samples as one that
never stopped, and a replayed CUDA graph draws new numbers in each step. Not in the paper.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..method.randomness import seeded_generator
from .error_bank import NONE
from .samples import Batch, ClipSamples
from .synthetic_clips import LatentClips


class Choices(NamedTuple):
    """What B samples use of their clips: the fields of `Draw`, and the clip, as tensors [B] on the device; references
    are [B, R].

    Samples without references or anchor still have frame numbers here, of arbitrary frames of the clip.
    """

    clip: Tensor
    target: Tensor
    references: Tensor
    has_references: Tensor
    anchor: Tensor
    has_anchor: Tensor
    caption_kept: Tensor
    timestep: Tensor
    reference_level: Tensor
    anchor_level: Tensor


class DeviceDrawing:
    """Draws batches of a stage's own clips. Nothing in here waits for the device or loops over samples, and all of it
    can be captured. Raises ValueError if the clips are not latents of equal length."""

    def __init__(self, samples: ClipSamples, device: torch.device) -> None:
        if not isinstance(samples.clips, LatentClips):
            raise ValueError("only latents of the run's own clips can be kept on the device; leave out resident")
        self.config, self.seed, self.device = samples.config, samples.seed, device
        self.num_references, source = samples.num_references, samples.clips
        self.latents = source.latents.to(device)
        self.coverage = None if samples.coverage is None else samples.coverage.to(device)
        self.tokens = torch.stack([samples.tokenize(caption) for caption in source.captions]).to(device)
        self.no_caption = samples.tokenize("").to(device)
        self.ratios = samples.ratios.to(device)
        self.signal, self.spread = samples.signal.to(device), samples.spread.to(device)
        clean = torch.arange(len(self.ratios), device=device) == 0  # noise level 0 is clean; it is not time step 0
        self.level_signal = self.signal.masked_fill(clean, 1.0)
        self.level_spread = self.spread.masked_fill(clean, 0.0)
        self.steps_back = torch.arange(self.num_references, 0, -1, device=device)
        self.renew()

    def renew(self) -> None:
        """Make a new generator that no graph has registered."""
        self.generator = torch.Generator(self.device)

    def begin(self, step: int) -> None:
        """What is drawn from here on depends only on `step`."""
        self.generator.manual_seed(seeded_generator(self.seed, step, "drawn on the device").initial_seed())

    @torch.no_grad()
    def batch(self, count: int) -> Batch:
        """The next `count` samples of the step, on the device."""
        chosen = self.choose(count)
        shown = torch.cat([chosen.references, chosen.anchor[:, None], chosen.target[:, None]], dim=1)
        there = [chosen.has_references[:, None].expand(-1, self.num_references), chosen.has_anchor[:, None]]
        present = torch.cat([*there, torch.ones_like(chosen.has_anchor)[:, None]], dim=1).float()
        frames = self.latents[chosen.clip[:, None], shown].float() * present[..., None, None, None]
        levels = torch.stack([chosen.reference_level, chosen.anchor_level], dim=1)
        noised = torch.cat([levels[:, :1].expand(-1, self.num_references), levels[:, 1:]], dim=1)
        timestep = chosen.timestep[:, None]
        captions = self.tokens[chosen.clip]
        return Batch(
            frames=frames,
            present=present,
            shown=timestep,  # used only for images
            noise=torch.randn(frames.shape, generator=self.generator, device=self.device),
            levels=levels,
            signal=torch.cat([self.level_signal[noised], self.signal[timestep]], dim=1),
            spread=torch.cat([self.level_spread[noised], self.spread[timestep]], dim=1),
            timesteps=chosen.timestep,
            text=torch.where(chosen.caption_kept[:, None], captions, self.no_caption),
            rolled=chosen.timestep,  # used only for samples whose references the model makes itself
            seeds=chosen.timestep,
            broken={},
            coverage=self._covered(chosen),
            error_picks=self._error_picks(count) if self.config.error_share else None,
        )

    def _error_picks(self, count: int) -> Tensor:
        """As in `draw_sample`. Drawn last, so that runs without errors draw what they always drew."""
        kind, place = torch.rand(2, count, 2, generator=self.generator, device=self.device)
        return torch.where(kind < self.config.error_share, place, NONE)

    def choose(self, count: int) -> Choices:
        """The choices of `count` samples, as `draw_sample` makes them."""
        config, (clips, frames) = self.config, self.latents.shape[:2]
        # In float64, the product of a share below 1 and a number of clips is never rounded up to that number.
        shares = torch.rand(12, count, generator=self.generator, device=self.device, dtype=torch.float64)
        clip, kind, position, anchor, *drops, reference_level, anchor_level = shares
        position = _whole(position, 1, frames)
        first, later = kind < config.first_share, kind >= config.first_share + config.second_share
        alone = ~later | (position < self.num_references)
        back = 1 + (self.steps_back - 1) * (~alone).long()[:, None]
        window = 1 + later.long() * (config.anchor_window - 1)
        begins = first & (drops[0] < config.beginning_share)
        has_references = ~first & (drops[1] >= config.drop_references)
        has_anchor = ~first & (drops[2] >= config.drop_anchor)
        levels = config.max_noise_level + 1
        return Choices(
            clip=_whole(clip, 0, clips),
            target=position * (~begins).long(),
            references=position[:, None] - back,
            has_references=has_references,
            anchor=_whole(anchor, (position - window).clamp(min=0), position),
            has_anchor=has_anchor,
            caption_kept=drops[3] >= config.drop_text,
            timestep=self._timesteps(drops[4], drops[5]),
            reference_level=_whole(reference_level, 0, levels) * has_references.long(),
            anchor_level=_whole(anchor_level, 0, levels) * has_anchor.long(),
        )

    def _timesteps(self, place: Tensor, kind: Tensor) -> Tensor:
        """As `draw_timestep`."""
        config, last = self.config, len(self.ratios) - 1
        normal = torch.randn(place.shape, generator=self.generator, device=self.device, dtype=torch.float64)
        ratios = config.ratio_median * torch.exp(config.ratio_spread * normal)
        drawn = torch.searchsorted(self.ratios, ratios).clamp(max=last)
        return torch.where(kind < config.uniform_share, _whole(place, 0, last + 1), drawn)

    def _covered(self, chosen: Choices) -> Tensor | None:
        if self.coverage is None:
            return None
        return self.coverage[chosen.clip, chosen.target][:, None].float() / 255


def _whole(share: Tensor, low: Tensor | int, high: Tensor | int) -> Tensor:
    """Shares [B] in [0, 1) to whole numbers from `low` up to, but not including, `high`."""
    return low + (share * (high - low)).long()
