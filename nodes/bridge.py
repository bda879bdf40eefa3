"""The connection between the host and the core: types, scales, layouts, and the run itself. Memory is handled in
`weights`, images in `images`.

There is no mathematics and no frame loop here: frames come from `artv_core.method.generate.generate_frames`.
"""

import dataclasses
import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import comfy.model_management as memory
import torch
from comfy_api.latest import io
from torch import Tensor

from ..artv_core.config import ARTVConfig, VAEConfig
from ..artv_core.method.frames import AnchorPolicy, Frame
from ..artv_core.method.generate import VideoRequest, as_batch, check_keyframes
from ..artv_core.method.options import GenerateOptions
from ..artv_core.method.text_track import TextTrack
from ..artv_core.run.drift import DriftMeter, DriftReading, drift_table
from ..artv_core.run.recording import Recording
from .frame_request import FrameRecord, FrameRequest
from .images import Decoder
from .live import Run
from .loading import load_model as load_model  # callers outside the pack look for it here
from .monitor import Decode, Monitor, failures_told
from .prompt_track import Conditioning, read_texts
from .size_advice import size_advice
from .steer import steered_run, steered_track, steering_told
from .weights import Evaluations, run_weights
from .words import warn_of_words

logger = logging.getLogger(__name__)

# The host's schema


def schema(**fields: Any) -> io.Schema:
    """A node description for the host, without the fields that an older host does not know (such as search aliases)."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return io.Schema(**{name: value for name, value in fields.items() if name in known})


# Scales and layouts


def to_core(latents: Tensor, vae: VAEConfig) -> Tensor:
    """Convert latents from the host's LATENT scale to the core's, float32."""
    return (latents.float() - vae.shift) * vae.scale


def to_host(latents: Tensor, vae: VAEConfig) -> Tensor:
    """Convert latents from the core's scale to the host's LATENT scale, float32."""
    return latents.float() / vae.scale + vae.shift


def latent_samples(latent: dict[str, Any], name: str) -> Tensor:
    """The samples [T, C, h, w] of a LATENT. Raises ValueError if it is not a batch of images."""
    samples = latent["samples"]
    if samples.ndim != 4:
        shape = "x".join(map(str, samples.shape))
        raise ValueError(f"{name} is {shape}, expected the latents of images (frames x channels x height x width)")
    return samples


def one_latent(latent: dict[str, Any], name: str) -> Tensor:
    """The samples [1, C, h, w] of a LATENT of one image. Raises ValueError if it contains several."""
    samples = latent_samples(latent, name)
    if samples.shape[0] != 1:
        raise ValueError(f"{name} contains {samples.shape[0]} images, expected 1; pick one with Latent From Batch")
    return samples


def _check_channels(samples: Tensor, config: ARTVConfig, name: str) -> None:
    wanted = config.vae.latent_channels
    if samples.shape[1] != wanted:
        raise ValueError(
            f"{name} has {samples.shape[1]} channels, this model's latents have {wanted}; "
            "it was made by another VAE: use the VAE that belongs to the model"
        )


# Sampling


class FrameSink(Protocol):
    """Receives frames as they are made: takes latents [B, C, h, w] in the host's scale, returns their images [B, 3, H,
    W]."""

    def __enter__(self) -> Any: ...
    def __exit__(self, *error: Any) -> None: ...
    def append(self, latents: Tensor) -> Tensor: ...  # noqa: D102


class Video(NamedTuple):
    """One sampled video: latents [T, C, h, w] in the host's scale, masks [T, h, w], a table of its drift, and how its
    frames were made."""

    latents: Tensor
    masks: Tensor
    drift: str
    request: FrameRequest


class Sampled(NamedTuple):
    """All videos of a batch, a line about their journal, and whether the run was steered: then the videos are not what
    the inputs alone would make."""

    videos: list[Video]
    journal: str
    steered: bool


def sample(
    patcher: Any,
    positive: Conditioning,
    options: GenerateOptions,
    *,
    negative: Conditioning | None = None,
    references: dict[str, Any] | None = None,
    keyframes: Mapping[int, Tensor] | None = None,
    anchor: AnchorPolicy | None = None,
    anchor_strength: float = 1.0,
    vae: Any = None,
    journal: Path | None = None,
    start_over: bool = False,
    streams: FrameSink | None = None,
    workflow: str | None = None,
    for_prompts: Callable[[GenerateOptions, TextTrack], GenerateOptions] | None = None,
) -> Sampled:
    """Sample `options.batch_size` videos, which start with the frames in `references`.

    A value of `options` that is None stands for the checkpoint's recommendation. The latents of an anchor and of
    `keyframes` ([1, C, h, w], by frame) are in the host's scale. `journal` is the folder of journals, and `start_over`
    ignores what is in them. `streams` gets every frame. `workflow` is the id of the graph in the page that is told
    about the run, and can steer it. `for_prompts` changes the options once the prompts are known, which then stay.
    Raises ValueError if inputs do not fit together, and the host's own error when the user interrupts.
    """
    model = patcher.model
    given = _given_frames(references, model.config)
    placed = _placed_frames(keyframes, model.config)
    options = _resolved(options, model.config, given, placed, anchor_strength)
    texts = read_texts(positive, negative, model.null_context.float().cpu(), options.num_frames)
    options = options if for_prompts is None else for_prompts(options, texts.track).resolved(model.config)
    policy = _core_anchor(anchor or AnchorPolicy(), model.config, options)
    policy.check_segments(len(texts.track.starts))
    collector = _Collector(options, model.config)
    run = _run(options, model.config, workflow, given=bool(len(given) or placed))
    with failures_told(run), Evaluations(patcher, options) as evaluations:
        shown = _decoder(model.config, vae, evaluations)
        monitor = Monitor(run, len(given), options.steps or 1, shown, frozenset(placed))
        weights = run_weights(patcher)
        run.unknown = warn_of_words(model.config, positive, negative)
        recording = None if journal is None else Recording(journal, start_over, weights, on_open=monitor.opened)
        fixed = bool(policy.by_segment) or for_prompts is not None
        track = steered_track(positive, texts.track, evaluations.make_sure, fixed)
        request = VideoRequest(track, options, texts.negative, policy, monitor.step, evaluations.function, placed)
        steered = steered_run(model, request, recording, [as_batch(latent, options, model) for latent in given], run)
        with steering_told(run, steered, files=streams is not None):
            _gather(steered.frames(), collector, streams, monitor, evaluations)
    videos = collector.videos(steered.final_request(), len(given), weights)
    run.came_out(videos[0].latents)
    return Sampled(videos, monitor.journal, steered.was_steered)


def _run(options: GenerateOptions, config: ARTVConfig, workflow: str | None, given: bool) -> Run:
    """The run as the page is told about it. `given`: its size is that of given pictures."""
    (best_height, best_width), size = config.size, (options.width or 0, options.height or 0)
    advice = size_advice(size, (best_width, best_height), given)
    if advice is not None:
        logger.warning("ARTV: %s", advice)
    return Run(options.num_frames, *size, config.fps, workflow, options.batch_size, advice)


def _gather(
    frames: Generator[Frame, None, None],
    collector: "_Collector",
    streams: FrameSink | None,
    monitor: Monitor,
    evaluations: Evaluations,
) -> None:
    """Make all frames, and pass each one to the collector, the streams and the page."""
    with monitor, streams or nullcontext(), closing(frames):
        for frame in frames:
            if frame.index < collector.count:  # after a step back
                collector.cut(frame.index)
                monitor.cut(frame.index)
            latents, reading = collector.add(frame)
            image = None
            if streams is not None:
                image = streams.append(latents)[:1]
                evaluations.make_sure()
            monitor.finished(frame, reading, image)
        monitor.ended()


def _given_frames(references: dict[str, Any] | None, config: ARTVConfig) -> Tensor:
    if references is None:
        return torch.empty(0, config.vae.latent_channels, 1, 1)
    samples = latent_samples(references, "the references' latent")
    _check_channels(samples, config, "the references' latent")
    return to_core(samples, config.vae)


def _placed_frames(keyframes: Mapping[int, Tensor] | None, config: ARTVConfig) -> dict[int, Tensor]:
    for samples in (keyframes or {}).values():
        _check_channels(samples, config, "the keyframes' latent")
    return {index: to_core(samples, config.vae) for index, samples in (keyframes or {}).items()}


def _resolved(
    options: GenerateOptions, config: ARTVConfig, given: Tensor, placed: Mapping[int, Tensor], anchor_strength: float
) -> GenerateOptions:
    """Fill in the recommendations. The size is that of the given frames or keyframes if none was chosen."""
    sized = given if len(given) else next(iter(placed.values()), given)
    if len(sized):
        height, width = (side * config.vae.factor for side in sized.shape[-2:])
        options = dataclasses.replace(options, height=options.height or height, width=options.width or width)
    options = options.resolved(config)
    if len(given) >= options.num_frames:
        raise ValueError(
            f"frames is {options.num_frames}, and you gave {len(given)} of them, so none is left "
            f"to make; frames counts the given ones: set it above {len(given)}"
        )
    check_keyframes(placed, len(given), options.num_frames)
    scale = (options.guidance_anchor or 0.0) * anchor_strength
    options = dataclasses.replace(options, guidance_anchor=scale)
    if len(given):
        _check_size(given, config, options, "the references' image")
    for latents in placed.values():
        _check_size(latents, config, options, "the keyframes' image")
    return options


def _core_anchor(policy: AnchorPolicy, config: ARTVConfig, options: GenerateOptions) -> AnchorPolicy:
    def converted(latent: Tensor) -> Tensor:
        _check_channels(latent, config, "the anchor's latent")
        _check_size(latent, config, options, "the anchor's image")
        return to_core(latent, config.vae)

    latent = None if policy.latent is None else converted(policy.latent)
    return dataclasses.replace(policy, latent=latent, by_segment=tuple(map(converted, policy.by_segment)))


def _check_size(latents: Tensor, config: ARTVConfig, options: GenerateOptions, name: str) -> None:
    height, width = (side * config.vae.factor for side in latents.shape[-2:])
    if (height, width) != (options.height, options.width):
        raise ValueError(
            f"{name} is {width}x{height} pixels, the video {options.width}x{options.height}; "
            "make them equal: scale the image before VAE Encode, or change width and height"
        )


class _Collector:
    """Collects frames as they are made, on the host's device for results and in its scale."""

    def __init__(self, options: GenerateOptions, config: ARTVConfig) -> None:
        self._vae = config.vae
        shape = (options.batch_size, config.vae.latent_channels)
        cells = ((options.height or 0) // config.vae.factor, (options.width or 0) // config.vae.factor)
        device = memory.intermediate_device()
        # Videos come first, because each becomes a separate tensor. Filling it in place keeps the peak of memory at the
        # result itself.
        self._latents = torch.zeros(shape[0], options.num_frames, shape[1], *cells, device=device)
        self._masks = torch.zeros(shape[0], options.num_frames, *cells, device=device)
        self._meters = [DriftMeter() for _ in range(options.batch_size)]
        self._readings: list[list[DriftReading]] = [[] for _ in range(options.batch_size)]
        self._records = [FrameRecord() for _ in range(options.batch_size)]

    @property
    def count(self) -> int:
        """How many frames there are."""
        return len(self._readings[0])

    def cut(self, count: int) -> None:
        """Forget all but the first `count` frames, of which there is at least one."""
        for b, record in enumerate(self._records):
            record.cut(count)
            del self._readings[b][count:]
            self._meters[b] = DriftMeter()  # which goes on from the first frame and the last
            for index in dict.fromkeys((0, count - 1)):
                self._meters[b].read(index, self._latents[b, index])
        self._masks[:, count:] = 0

    def add(self, frame: Frame) -> tuple[Tensor, DriftReading]:
        """Add a frame. Returns its latents [B, C, h, w] in the host's scale, and the drift of the first video."""
        self._latents[:, frame.index] = to_host(frame.latent, self._vae).to(self._latents.device)
        if frame.mask is not None:
            self._masks[:, frame.index] = frame.mask[:, 0].to(self._masks.device)
        core = frame.latent.to(self._latents.device)
        for b, record in enumerate(self._records):
            latent = self._latents[b, frame.index]
            record.add(latent, core[b], to_core(latent, self._vae))
        for b, (meter, readings) in enumerate(zip(self._meters, self._readings, strict=True)):
            readings.append(meter.read(frame.index, self._latents[b, frame.index], self._masks[b, frame.index]))
        return self._latents[:, frame.index], self._readings[0][-1]

    def videos(self, request: VideoRequest, num_given: int, weights: str) -> list[Video]:
        """The videos of the run, which sampled with `weights` (a digest)."""
        made = slice(self.count)
        latents, masks = self._latents[:, made], self._masks[:, made]
        parts = zip(latents, masks, self._readings, self._records, strict=True)
        return [
            Video(one, mask, drift_table(readings), FrameRequest.of_run(request, num_given, b, weights, record))
            for b, (one, mask, readings, record) in enumerate(parts)
        ]


def _decoder(config: ARTVConfig, vae: Any, evaluations: Evaluations) -> Decode | None:
    """A function that decodes the core's latents with the host's VAE, and loads the model again if the VAE pushed it
    out."""
    if vae is None:
        return None
    decode = Decoder(vae)

    def show(latents: Tensor) -> Tensor:
        images = decode(to_host(latents, config.vae))
        evaluations.make_sure()
        return images

    return show
