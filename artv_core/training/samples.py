"""Which frames of which clip a sample of the stage "diffusion" uses, and how samples become batches."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..config import TextConfig
from ..data.clips import ClipSource
from ..data.order import ClipReading, NoSubstitute, RepairedClips
from ..method.noise_schedule import NoiseSchedule
from ..method.randomness import normal, seeded_generator
from ..models.artv import ARTV
from ..models.text import tokenize
from .config import DiffusionStage
from .error_bank import NONE

Key = tuple[int, *tuple[int | str, ...]]
"""The key of a sample's randomness: the seed, followed by numbers or words."""


@dataclass(frozen=True)
class Draw:
    """Which frames of its clip a sample uses, at which noise levels, and with which conditions."""

    target: int
    references: tuple[int, ...]  # oldest first; empty for a first frame
    anchor: int | None
    caption_kept: bool
    timestep: int
    reference_level: int
    anchor_level: int
    rolled: bool
    error_picks: tuple[float, float] = (NONE, NONE)  # which errors references and anchor get (`ErrorBank.picked`)


def draw_sample(
    config: DiffusionStage, rng: random.Random, num_frames: int, num_references: int, ratios: Tensor
) -> Draw:
    """One sample's choices from a clip of `num_frames`. A first frame has no references and can be any frame of the
    clip but the first; in `beginning_share` of the cases it is the clip's first. A second frame sees its one
    predecessor twice, and as its anchor; any other frame sees the last two, and an anchor up to `anchor_window` frames
    back (paper: 10). `ratios` [steps] is the schedule's noise-to-signal ratio at each time step, ascending.

    For a sample that uses the model's own frames, the references are true frames further back: the model makes the
    frames from there up to the target.
    """
    kind = rng.random()
    position = rng.randrange(1, num_frames)
    if kind < config.first_share:
        references: tuple[int, ...] = ()
    elif kind < config.first_share + config.second_share or position < num_references:
        references = (position - 1,) * num_references
    else:
        references = tuple(range(position - num_references, position))
    window = config.anchor_window if kind >= config.first_share + config.second_share else 1
    anchor = rng.randrange(max(0, position - window), position) if references else None
    if config.beginning_share and not references and rng.random() < config.beginning_share:
        position = 0
    if rng.random() < config.drop_references:
        references = ()
    if rng.random() < config.drop_anchor:
        anchor = None
    draw = Draw(
        position,
        references,
        anchor,
        rng.random() >= config.drop_text,
        draw_timestep(config, rng, ratios),
        rng.randrange(config.max_noise_level + 1) if references else 0,
        rng.randrange(config.max_noise_level + 1) if anchor is not None else 0,
        rng.random() < config.rollout_share,
        (_error_pick(config, rng), _error_pick(config, rng)),
    )
    return _moved_back(draw, config.rollout_frames)


def _error_pick(config: DiffusionStage, rng: random.Random) -> float:
    """A place in the bank of errors, in `error_share` of the cases."""
    chosen, place = rng.random() < config.error_share, rng.random()
    return place if chosen else NONE


def _moved_back(draw: Draw, frames: int) -> Draw:
    """Move the references back by the number of frames that the model is to make; if the clip has no frames that early,
    change nothing."""
    fits = len(set(draw.references)) == len(draw.references) > 0 and draw.references[0] >= frames
    references = tuple(reference - frames for reference in draw.references) if draw.rolled and fits else draw.references
    return replace(draw, references=references, rolled=draw.rolled and fits)


def draw_timestep(config: DiffusionStage, rng: random.Random, ratios: Tensor) -> int:
    """A time step drawn uniformly, or log-normally in the noise-to-signal ratio, by the shares in the configuration."""
    uniform = rng.randrange(len(ratios))
    if rng.random() < config.uniform_share:
        return uniform
    ratio = config.ratio_median * math.exp(config.ratio_spread * rng.gauss(0, 1))
    return min(int(torch.searchsorted(ratios, ratio)), len(ratios) - 1)


@dataclass(frozen=True)
class Batch:
    """B samples with R references each, on the CPU at first. Frames are images until they are encoded.

    Frames are ordered as references (oldest first), anchor, target. A blank frame is zeros and not `present`.
    """

    frames: Tensor  # [B, R + 2, 3, H, W] in [0, 1], or latents [B, R + 2, C, h, w]
    present: Tensor  # [B, R + 2], 1 or 0
    shown: Tensor  # [n], the indices of present frames among all B * (R + 2), ascending
    noise: Tensor  # [B, R + 2, C, h, w]
    levels: Tensor  # [B, 2], noise levels (time steps) of the references and of the anchor
    signal: Tensor  # [B, R + 2], `a` of Eq. 3 for each frame
    spread: Tensor  # [B, R + 2], `s` of Eq. 3 for each frame
    timesteps: Tensor  # [B], the target's
    text: Tensor  # [B, L] tokens, or [B, L, D] context
    rolled: Tensor  # [B], whether the model makes the references
    seeds: Tensor  # [B], seeds for the frames that the model makes
    broken: dict[int, str]  # clips that could not be read and were replaced, and why
    coverage: Tensor | None = None  # [B, 1, h, w], how much of each target cell is covered by things, 0 to 1
    error_picks: Tensor | None = None  # [B, 2], which errors of the bank references and anchor get

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same batch in memory that a GPU can read directly."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in tensors.items()}
        return replace(self, **changed)


class Order(Protocol):
    """Which clips a step sees."""

    def batch(self, step: int) -> np.ndarray:
        """The clip numbers of a step, one for each sample, all from one bucket."""


@dataclass(frozen=True)
class Clips:
    """A source, the order in which its clips are trained on, their numbers, and the numbers of held-out clips."""

    source: ClipSource
    order: Order
    trained_on: np.ndarray
    held_out: np.ndarray


class ClipSamples:
    """Batches of a clip source, keyed only by (seed, step, index). Worker processes use it, so it contains tables and
    no network."""

    def __init__(self, config: DiffusionStage, seed: int, model: ARTV, clips: Clips) -> None:
        self.config, self.seed, self.clips, self.order = config, seed, clips.source, clips.order
        self.trained_on = RepairedClips(clips.source, clips.trained_on)
        self.held_out = RepairedClips(clips.source, clips.held_out)
        self.schedule = NoiseSchedule(model.config.schedule)
        self.num_references = model.config.noise.adapter.num_references
        self.factor, self.latent_channels = model.config.vae.factor, model.config.vae.latent_channels
        self.ratios = self.schedule.sigmas
        self.signal, self.spread = (
            table.flatten() for table in self.schedule.scales(torch.arange(self.schedule.num_timesteps), ndim=1)
        )
        self.null_context = model.null_context.detach().to("cpu", copy=True)
        self.text_is_trained = "text" in config.train
        self.tokenize = _Tokenizer(model.config.text)
        self.coverage = coverage_of(clips.source) if config.change_weight else None

    def batch(self, step: int, indices: range) -> Batch:
        """The samples `indices` of step `step`. If a clip is broken and so is every other one of its size, they are all
        of another size."""
        chosen = self.order.batch(step)
        try:
            return self._samples(step, indices, chosen)
        except NoSubstitute as error:
            others = self.trained_on.of_another_bucket(int(chosen[0]), step, len(chosen))
            if not len(others):
                raise
            batch = self._samples(step, indices, others)
            return replace(batch, broken=error.broken | batch.broken)

    def _samples(self, step: int, indices: range, chosen: np.ndarray) -> Batch:
        return self.collate([self.sample(int(chosen[index]), (self.seed, step, index)) for index in indices])

    def draw(self, clip: int, key: Key, config: DiffusionStage) -> Draw:
        """The choices of a sample of this clip, by its key."""
        length = int(self.clips.index.num_frames[clip])
        return draw_sample(config, random.Random(_joined(key)), length, self.num_references, self.ratios)

    def sample(self, clip: int, key: Key, held_out: Draw | None = None) -> dict[str, Any]:
        """One sample of a clip, drawn by its key; a held-out sample comes with its choices."""
        draw = held_out or self.draw(clip, key, self.config)
        positions = [*(draw.references or (None,) * self.num_references), draw.anchor, draw.target]
        wanted = sorted({position for position in positions if position is not None})
        reading = (self.held_out if held_out else self.trained_on).read(clip, wanted)
        frames = _in_order(dict(zip(wanted, reading.frames, strict=True)), positions)
        levels = [draw.reference_level] * self.num_references + [draw.anchor_level]
        # Level 0 is clean. Time step 0 has a little noise and is not used as a level (NoiseSchedule.augment).
        scales = [(float(self.signal[k]), float(self.spread[k])) if k else (1.0, 0.0) for k in levels]
        scales.append((float(self.signal[draw.timestep]), float(self.spread[draw.timestep])))
        shape = frames.shape[1:] if self.clips.holds_latents else self._latent_shape(frames)
        extra = {} if self.coverage is None else {"coverage": self.coverage[clip, draw.target][None].float() / 255}
        if self.config.error_share:
            extra["error_picks"] = torch.tensor(draw.error_picks)
        return extra | {
            "frames": frames,
            "present": torch.tensor([float(position is not None) for position in positions]),
            "noise": normal((len(positions), *shape), seeded_generator(*key)),
            "levels": torch.tensor([draw.reference_level, draw.anchor_level]),
            "signal": torch.tensor([a for a, _ in scales]),
            "spread": torch.tensor([s for _, s in scales]),
            "timesteps": torch.tensor(draw.timestep),
            "text": self._text(reading, draw.caption_kept),
            "rolled": torch.tensor(draw.rolled),
            "seeds": torch.tensor(seeded_generator(*key, "rollout").initial_seed()),
            "broken": reading.broken,
        }

    def collate(self, samples: Sequence[dict[str, Any]]) -> Batch:
        """Samples of one bucket as a batch."""
        broken = {clip: reason for sample in samples for clip, reason in sample["broken"].items()}
        names = [name for name in samples[0] if name != "broken"]
        tensors = {name: torch.stack([sample[name] for sample in samples]) for name in names}
        shown = tensors["present"].flatten().nonzero().flatten()  # on the CPU; a GPU would have to be waited for
        return Batch(**tensors, shown=shown, broken=broken)

    def _latent_shape(self, frames: Tensor) -> tuple[int, ...]:
        return (self.latent_channels, frames.shape[-2] // self.factor, frames.shape[-1] // self.factor)

    def _text(self, reading: ClipReading, kept: bool) -> Tensor:
        """Context if the source has it and the text encoder is not trained; else tokens for the encoder to read."""
        if reading.context is not None and not self.text_is_trained:
            return reading.context if kept else self.null_context
        return self.tokenize(reading.caption if kept else "")


def coverage_of(source: ClipSource) -> Tensor | None:
    """How much of each latent cell is covered by things, uint8 [N, T, h, w] (255: all of it); None if the source does
    not know."""
    return getattr(source, "coverage", None)


def _joined(key: Key) -> str:
    return "/".join(map(str, key))


def _in_order(frames: dict[int, Tensor], positions: Sequence[int | None]) -> Tensor:
    """The frames at these positions, zeros for None."""
    blank = torch.zeros_like(next(iter(frames.values())))
    return torch.stack([blank if position is None else frames[position] for position in positions])


class _Tokenizer:
    """Captions to tokens [L]. Results are cached, which pays off because there are few captions, or each is used
    once."""

    def __init__(self, config: TextConfig) -> None:
        self.config, self.known = config, dict[str, Tensor]()

    def __call__(self, caption: str) -> Tensor:
        tokens = self.known.get(caption)
        if tokens is None:
            tokens = tokenize([caption], self.config)[0]
            if len(self.known) < 100_000:
                self.known[caption] = tokens
        return tokens
