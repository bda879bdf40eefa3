"""How to sample a video: its options, their values for a frame, and their limits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ..config import ARTVConfig
from .denoiser import MIX_MODES, Shortcuts
from .image_size import check_side
from .noise_schedule import NoiseSchedule
from .samplers import get_sampler

NoiseLevel = int | tuple[tuple[int, int], ...]
"""A condition's noise level (time step): one for all frames, or (first frame, level) pairs, ascending from frame 0."""

GuidanceScale = float | tuple[tuple[int, float], ...]
"""A guidance scale: one for all frames, or (first frame, scale) pairs, ascending from frame 0."""

MAX_SEED = 2**64 - 1
MAX_REACH = 1.0
GUIDANCE = ("guidance_references", "guidance_anchor", "guidance_text", "first_frame_guidance", "history_guidance")


@dataclass(frozen=True)
class GenerateOptions:
    """How to sample. None means the value that the checkpoint recommends.

    `num_frames` includes given frames; 0 means no end. `height` and `width` are in pixels. `spacing` is "uniform" or
    "karras" (`NoiseSchedule.sampling_sigmas`), `mix_mode` "after_guidance" or "every_branch" (`MaskedDenoiser`). `eta`
    is the share of fresh noise in stochastic samplers, and `s_noise` multiplies it. Noise levels are time steps.
    `first_frame_guidance` is the text scale for a frame without references, whatever `guidance_text` is; a
    `guidance_text` that changes from frame to frame is not in the paper. `first_frame_steps` is the number of steps for
    such a frame, 0 for as many as the others have; the recommended number goes with the recommended `steps` (not in the
    paper). Video b of a batch has seed `seed + b`. `use_mask=False` leaves out the mask network. `return_to_anchor` is
    how near to the anchor a copied cell must be to take the anchor's value (`drift_correction.return_to_anchor`; 0 is
    off; not in the paper).

    Not in the paper, and off by default: `redo` has (first frame, seed) pairs, ascending: from each of these frames on,
    its seed replaces the earlier one. `adain_strength` moves each new latent's statistics toward the anchor's
    (`match_statistics`). `reuse_every`, `reuse_blocks` and `guidance_interval` trade quality for speed (`Shortcuts`).
    `history_guidance` above 1 guides away from what the model makes with references noised to `history_noise_level`; it
    costs one branch more in each evaluation.
    """

    num_frames: int = 16
    height: int | None = None
    width: int | None = None
    seed: int = 0
    batch_size: int = 1
    steps: int | None = None
    first_frame_steps: int | None = None
    sampler: str | None = None
    spacing: str = "uniform"
    eta: float | None = None
    s_noise: float = 1.0
    guidance_references: float | None = None
    guidance_anchor: float | None = None
    guidance_text: GuidanceScale | None = None
    first_frame_guidance: float | None = None
    reference_noise_level: NoiseLevel | None = None
    anchor_noise_level: NoiseLevel | None = None
    return_to_anchor: float | None = None
    history_guidance: float = 1.0
    history_noise_level: int = 100
    mix_mode: str = "after_guidance"
    use_mask: bool = True
    redo: tuple[tuple[int, int], ...] = ()
    adain_strength: float = 0.0
    reuse_every: int = 1
    reuse_blocks: int = 1
    guidance_interval: tuple[float, float] = (0.0, 1.0)

    @property
    def shortcuts(self) -> Shortcuts:
        """The options that skip work. Raises ValueError if one is out of range."""
        return Shortcuts(self.reuse_every, self.reuse_blocks, self.guidance_interval)

    def steps_of(self, *, is_first: bool) -> int:
        """The number of steps of a frame. `is_first`: it has no references. The options must be resolved."""
        return (is_first and self.first_frame_steps) or self.steps or 1

    def resolved(self, config: ARTVConfig) -> "GenerateOptions":
        """A copy in which the checkpoint's recommendations replace None. Raises ValueError on options out of range."""
        recommended = {
            "height": config.size[0],
            "width": config.size[1],
            **{name: getattr(config.sampling, name) for name in vars(config.sampling)},
        }
        if self.steps is not None:
            recommended["first_frame_steps"] = 0
        filled = {name: value for name, value in recommended.items() if getattr(self, name, 0) is None}
        if self.eta is None and self.sampler == "ddim":
            filled["eta"] = 0.0  # what people mean by DDIM; the recommended eta is for the recommended sampler
        options = replace(self, **filled)
        _check(options, config)
        return options


def level_at(level: NoiseLevel, frame: int) -> int:
    """The noise level at a frame."""
    return level if isinstance(level, int) else next(value for start, value in reversed(level) if start <= frame)


def scale_at(scale: GuidanceScale, frame: int) -> float:
    """The guidance scale at a frame."""
    return next(value for start, value in reversed(scale) if start <= frame) if isinstance(scale, tuple) else scale


def seeds_at(options: GenerateOptions, frame: int) -> list[int]:
    """The seeds for a frame, one for each video of the batch."""
    seed = next((seed for start, seed in reversed(options.redo) if start <= frame), options.seed)
    return [seed + b for b in range(options.batch_size)]


def _check(options: GenerateOptions, config: ARTVConfig) -> None:
    factor = config.vae.factor
    for name in ("height", "width"):
        check_side(name, getattr(options, name), factor)
    if options.num_frames < 0:
        raise ValueError(f"number of frames is {options.num_frames}; give 1 or more, or 0 to go on until stopped")
    if options.batch_size < 1:
        raise ValueError(f"batch size is {options.batch_size}; it must be at least 1")
    if options.mix_mode not in MIX_MODES:
        raise ValueError(f"unknown mix_mode {options.mix_mode!r}; accepted are {', '.join(MIX_MODES)}")
    for name in (*GUIDANCE, "eta", "s_noise"):
        value = getattr(options, name)
        numbers = [number for _, number in value] if isinstance(value, tuple) else [value]
        for number in numbers:
            if not math.isfinite(number):
                raise ValueError(f"{name} is {number}; it must be a finite number")
    if isinstance(options.guidance_text, tuple):
        _check_starts("guidance_text", options.guidance_text)
    for name in ("eta", "s_noise"):
        if getattr(options, name) < 0:
            raise ValueError(f"{name} is {getattr(options, name)}; it must be 0 or more")
    get_sampler(options.sampler or "")
    schedule = NoiseSchedule(config.schedule)
    for name, least, few in (("steps", 1, ""), ("first_frame_steps", 0, " (as many as the others)")):
        steps = getattr(options, name) or 0
        if not least <= steps <= schedule.num_timesteps:
            raise ValueError(f"{name} is {steps}; accepted are {least}{few} to {schedule.num_timesteps}")
        schedule.sampling_sigmas(steps or 1, options.spacing)

    if not 0 <= options.adain_strength <= 1:
        raise ValueError(f"adain_strength is {options.adain_strength}; accepted are 0 (off) to 1")
    reach = options.return_to_anchor or 0.0
    if not 0 <= reach <= MAX_REACH:
        raise ValueError(f"return_to_anchor is {reach:g}; accepted are 0 (off) to {MAX_REACH:g}")
    _ = options.shortcuts
    check_redo(options.redo, options.batch_size)
    for name in ("reference_noise_level", "anchor_noise_level"):
        _check_level(name, getattr(options, name), config.schedule.num_timesteps)
    if options.history_guidance != 1:
        _check_history(options, config.schedule.num_timesteps)


def check_redo(redo: tuple[tuple[int, int], ...], batch_size: int = 1) -> None:
    """Raises ValueError if the frames of `GenerateOptions.redo` do not ascend or a seed is out of range."""
    starts = [start for start, _ in redo]
    if any(start < 1 for start in starts) or any(later <= earlier for earlier, later in pairwise(starts)):
        raise ValueError(
            f"redo names frames {starts}; accepted are frames from 1 on, each later than the one before it"
        )
    for start, seed in redo:
        if not 0 <= seed <= MAX_SEED + 1 - batch_size:
            raise ValueError(f"the seed from frame {start} on is {seed}; accepted are 0 to {MAX_SEED + 1 - batch_size}")


def _check_history(options: GenerateOptions, num_timesteps: int) -> None:
    noisier, level = options.history_noise_level, options.reference_noise_level or 0
    _check_level("history_noise_level", noisier, num_timesteps)
    noisiest = level if isinstance(level, int) else max(value for _, value in level)
    if noisier < noisiest:
        raise ValueError(
            f"history_noise_level is {noisier}; with history_guidance it must not be below reference_noise_level, "
            f"which goes up to {noisiest}"
        )


def _check_level(name: str, level: NoiseLevel, num_timesteps: int) -> None:
    if not isinstance(level, int | tuple | list):
        raise ValueError(f"{name} is {level!r}; accepted are whole numbers, or pairs of a frame and such a number")
    pairs = ((0, level),) if isinstance(level, int) else level
    _check_starts(name, pairs)
    for _, value in pairs:
        if not 0 <= value < num_timesteps:
            raise ValueError(f"{name} is {value}; accepted are 0 (clean) to {num_timesteps - 1}")


def _check_starts(name: str, pairs: Sequence[tuple[int, float]]) -> None:
    starts = [start for start, _ in pairs]
    if starts[:1] != [0] or any(later <= earlier for earlier, later in pairwise(starts)):
        raise ValueError(f"{name} changes at frames {starts}; the first must be 0, each later than the one before")
