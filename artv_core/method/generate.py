"""The main loop: generates a video frame by frame, and yields each frame as soon as it is finished."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..models.artv import ARTV
from .conditioning import Conditioners, FrameInputs, NoisedLatents, frame_denoiser, noised
from .denoiser import GuidanceScales, Levels, RunNetworks, run_networks
from .drift_correction import match_statistics, return_to_anchor
from .frames import AnchorPolicy, Frame, FrameBuffer
from .noise_schedule import NoiseSchedule
from .options import GenerateOptions, level_at, scale_at, seeds_at
from .randomness import normal, seeded_generator
from .samplers import StepInfo, evaluated_sigmas, gaussian_noise, get_sampler
from .text_track import TextTrack
from .transfer import to_device

StepCallback = Callable[[int, StepInfo], None]
"""on_step(frame_index, info) is called after each denoising step's first evaluation. `info.mask` is the copy mask of
that evaluation. An exception from it ends the run."""


@dataclass(frozen=True)
class VideoRequest:
    """A video to be made: all that decides its frames apart from the model and the frames that are given.

    `options` must be resolved (`GenerateOptions.resolved`). `negative` [L, D] replaces the null context. `run_networks`
    may be a faster version, such as `speed.compiled.Compiled`. `keyframes` has latents of frames that are taken instead
    of made ([C, h, w] or [1 or B, C, h, w]), by frame index; the video goes on from each as from a first frame
    (`FrameBuffer.restart`), and from neighbouring ones as from a video's first frames (not in the paper)."""

    text: TextTrack
    options: GenerateOptions
    negative: Tensor | None = None
    anchor: AnchorPolicy = field(default_factory=AnchorPolicy)
    on_step: StepCallback | None = None
    run_networks: RunNetworks = run_networks
    keyframes: Mapping[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError unless `options` are resolved, there is an anchor for each prompt or for all, and each
        prompt is one text or one for each video."""
        self.anchor.check_segments(len(self.text.starts))
        if None in (self.options.height, self.options.width, self.options.steps, self.options.sampler):
            raise ValueError("the options are not resolved; give options.resolved(model.config)")
        for segment in self.text.segments:
            videos = 1 if segment.context.ndim == 2 else len(segment.context)
            if videos not in (1, self.options.batch_size):
                raise ValueError(
                    f"the prompt from frame {segment.start} on has {videos} texts, and there are "
                    f"{self.options.batch_size} videos; give one text for all, or one for each"
                )

    def begins_shot(self, frame: int) -> bool:
        """Whether a frame is a keyframe, and the frame before it is not."""
        return frame in self.keyframes and frame - 1 not in self.keyframes


@torch.no_grad()
def generate_frames(model: ARTV, request: VideoRequest, given: Iterable[Tensor] = ()) -> Iterator[Frame]:
    """Generate the frames that follow `given` (T latents, each [C, h, w] or [B, C, h, w]), one by one.

    Without given frames, the first frame is made from text alone (blank references). Apart from the request, frame k
    depends only on (seed, k) and the frames before it. So a run may stop after any frame and continue later, with its
    frames as `given`. Raises ValueError on given frames of another size.
    """
    text, options = request.text, request.options
    schedule = NoiseSchedule(model.config.schedule)
    buffer = FrameBuffer(model.config.noise.adapter.num_references, request.anchor)
    for latent in given:
        take_frame(buffer, text, as_batch(latent, options, model), request.begins_shot(buffer.count))
    conditioners = Conditioners.of(model, options.use_mask)
    null_context = model.null_context if request.negative is None else request.negative
    levels = _levels(model, schedule, options)

    while not options.num_frames or buffer.count < options.num_frames:
        index = buffer.count
        if index in request.keyframes:
            latent = as_batch(request.keyframes[index], options, model)
            take_frame(buffer, text, latent, request.begins_shot(index))
            yield Frame(index, latent, None)
            continue
        text.begin(index)
        if text.starts_segment(index):
            buffer.begin_segment()
        inputs = gather_inputs(model, schedule, text.context(index), null_context, buffer, options)
        latent, mask = sample_frame(conditioners, schedule, inputs, index, request, levels)
        if options.adain_strength:
            latent = match_statistics(latent, buffer.anchor(), options.adain_strength)
        if options.return_to_anchor:
            latent = return_to_anchor(latent, mask, buffer.anchor(), options.return_to_anchor)
        buffer.append(latent)
        yield Frame(index, latent, mask)


def take_frame(buffer: FrameBuffer, text: TextTrack, latent: Tensor, begins_shot: bool = False) -> None:
    """Add a given frame [B, C, h, w] to the buffer, as if it had been generated, or as the first one of a shot."""
    if text.starts_segment(buffer.count):
        buffer.begin_segment()
    if begins_shot:
        buffer.restart(latent)
    else:
        buffer.append(latent)


def check_keyframes(positions: Iterable[int], num_given: int, num_frames: int) -> None:
    """Raises ValueError if a keyframe is not in a video of `num_frames` frames (0: no end), or is one of its first
    `num_given` frames, or if no frame is left to make."""
    positions = sorted(positions)
    if positions and positions[0] < 0:
        raise ValueError(f"a keyframe is at frame {positions[0]}; frames are counted from 0")
    if positions and positions[0] < num_given:
        raise ValueError(
            f"frame {positions[0]} is given twice: as a keyframe, and as one of the first frames (0 to "
            f"{num_given - 1}); move the keyframe to {num_given} or later"
        )
    if positions and 0 < num_frames <= positions[-1]:
        raise ValueError(
            f"a keyframe is at frame {positions[-1]}, but the video has {num_frames} frames, 0 to {num_frames - 1}; "
            "make more frames or move the keyframe"
        )
    if positions and num_given + len(positions) == num_frames:
        raise ValueError(f"all {num_frames} frames are given, so none is left to make; make more frames")


def as_batch(latent: Tensor, options: GenerateOptions, model: ARTV) -> Tensor:
    """A given frame's latent ([C, h, w], [1, C, h, w] or [B, C, h, w]) as [B, C, h, w] on the model's device.
    `options` must be resolved. Raises ValueError if the latent's size is not that of the video."""
    check_latent(latent, options, model, "a given frame's latent")
    latent = latent if latent.ndim == 4 else latent[None]
    return to_device(latent, model.noise.device, dtype_of(model)).expand(latent_shape(model, options))


def check_latent(latent: Tensor, options: GenerateOptions, model: ARTV, name: str) -> None:
    """Raises ValueError if a latent ([C, h, w], [1, C, h, w] or [B, C, h, w]) has not the size of the video. `options`
    must be resolved."""
    shape, found = latent_shape(model, options), tuple((latent if latent.ndim == 4 else latent[None]).shape)
    if found not in (shape, (1, *shape[1:])):
        got, wanted = "x".join(map(str, found)), "x".join(map(str, shape))
        raise ValueError(f"{name} is {got}, expected {wanted}; make it the size of the video")


def gather_inputs(
    model: ARTV,
    schedule: NoiseSchedule,
    context: Tensor,
    null_context: Tensor,
    buffer: FrameBuffer,
    options: GenerateOptions,
) -> FrameInputs:
    """Collect the conditions of the next frame: text, and references and anchor with noise up to their levels."""
    seeds = seeds_at(options, buffer.count)
    references, anchor = buffer.references(), buffer.anchor()
    blank = NoisedLatents(
        torch.zeros(latent_shape(model, options), dtype=dtype_of(model), device=model.noise.device), 0
    )
    noised_references, noisier = NoisedLatents(blank.latents.repeat(1, buffer.num_references, 1, 1), 0), None
    if references is not None:
        level, flat = level_at(options.reference_noise_level or 0, buffer.count), references.flatten(1, 2)
        noised_references = noised(schedule, flat, level, seeds, buffer.count, "references")
        if options.history_guidance != 1:  # the same noise, so that the branches differ in its level alone
            noisier = noised(schedule, flat, options.history_noise_level, seeds, buffer.count, "references")
    noised_anchor = blank
    if anchor is not None:
        anchor = anchor.to(blank.latents).expand_as(blank.latents)
        level = level_at(options.anchor_noise_level or 0, buffer.count)
        noised_anchor = noised(schedule, anchor, level, seeds, buffer.count, "anchor")
    return FrameInputs(
        context=context,
        null_context=null_context,
        references=noised_references,
        anchor=noised_anchor,
        reference_latent=None if references is None else references[:, -1],
        has_anchor=anchor is not None,
        noisier_references=noisier,
    )


def sample_frame(
    conditioners: Conditioners,
    schedule: NoiseSchedule,
    inputs: FrameInputs,
    index: int,
    request: VideoRequest,
    levels: Levels | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Sample one latent [B, C, h, w] from noise. Also returns the mean of the steps' copy masks [B, 1, h, w], or
    None."""
    options = request.options
    scales = _scales(inputs, options, index)
    denoiser = frame_denoiser(
        schedule, conditioners, inputs, scales, options.mix_mode, options.shortcuts, request.run_networks, levels
    )
    masks: list[Tensor] = []

    def after_step(info: StepInfo) -> None:
        if denoiser.mask is not None:
            masks.append(denoiser.mask)
        if request.on_step is not None:
            request.on_step(index, replace(info, mask=denoiser.mask))

    sigmas = _sigmas(schedule, options, is_first=inputs.reference_latent is None)
    seeds, like = seeds_at(options, index), inputs.anchor.latents
    start = torch.stack([normal(tuple(like.shape[1:]), seeded_generator(seed, index, "initial")) for seed in seeds])
    x = to_device(start, like.device, like.dtype) * float(sigmas[0])
    latent = get_sampler(options.sampler or "")(
        denoiser,
        x,
        sigmas,
        noise_sampler=gaussian_noise([seeded_generator(seed, index, "sampler") for seed in seeds], x),
        eta=options.eta or 0.0,
        s_noise=options.s_noise,
        callback=after_step,
    )
    return latent, torch.stack(masks).mean(dim=0) if masks else None


def _levels(model: ARTV, schedule: NoiseSchedule, options: GenerateOptions) -> Levels:
    """The noise levels of all evaluations, those of a first frame and those of the others."""
    evaluated = [
        sigma
        for is_first in (True, False)
        for sigma in evaluated_sigmas(
            options.sampler or "", _sigmas(schedule, options, is_first=is_first), options.eta or 0.0
        )
    ]
    return Levels(schedule, dtype_of(model), model.noise.device, evaluated)


def _sigmas(schedule: NoiseSchedule, options: GenerateOptions, *, is_first: bool) -> Tensor:
    """The noise levels of the steps of a frame. `is_first`: it has no references."""
    return schedule.sampling_sigmas(options.steps_of(is_first=is_first), options.spacing)


def _scales(inputs: FrameInputs, options: GenerateOptions, frame: int) -> GuidanceScales:
    of_text = options.guidance_text if inputs.reference_latent is not None else options.first_frame_guidance
    scales = (options.guidance_references, options.guidance_anchor, of_text)
    references, anchor, text = (1.0 if scale is None else scale_at(scale, frame) for scale in scales)
    return GuidanceScales(references, anchor, text, options.history_guidance)


def dtype_of(model: ARTV) -> torch.dtype:
    """The dtype of latents: float32, or float64 if the network has that."""
    return torch.promote_types(model.noise.dtype, torch.float32)


def latent_shape(model: ARTV, options: GenerateOptions) -> tuple[int, ...]:
    """The shape [B, C, h, w] of a frame's latent. `options` must be resolved."""
    factor = model.config.vae.factor
    height, width = options.height or 0, options.width or 0
    return (options.batch_size, model.config.vae.latent_channels, height // factor, width // factor)
