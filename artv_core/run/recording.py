"""A run with a journal: what decides its frames, as digests, and the spine between the journal's reading and writing.

The same inputs give the same digests in every process, so a run that was cut off finds its frames again. The number of
frames is no input: a longer run goes on from a shorter one. Ours.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ARTVConfig
from ..method.denoiser import Evaluate, evaluate
from ..method.frames import AnchorPolicy, Frame
from ..method.generate import (
    GenerateOptions,
    StepCallback,
    generate_frames,
    latent_shape,
    level_at,
    seeds_at,
)
from ..method.text_track import TextTrack
from ..models.artv import ARTV
from .finite_frames import checked, finite_only
from .journal import Journal, journaled, open_journal

JOURNAL_FROM = 33
"""Videos of so many frames are journaled where nobody says otherwise."""

METHOD = 2
"""Counts up when a release makes other frames of the same inputs, so that no video is a mixture."""

_LONGEST_REDO = 50
_BY_FRAME = ("num_frames", "seed", "redo", "reference_noise_level", "anchor_noise_level")


@dataclass(frozen=True)
class Recording:
    """Where a run's journal is kept; `start_over` leaves aside what other journals there hold. `weights` is
    `weights_digest`'s where it is known already; `about` goes into the journal, for people. `on_open` is called with
    the journal before any frame is made."""

    folder: Path
    start_over: bool = False
    weights: str | None = None
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    on_open: Callable[[Journal], None] | None = None


def wants_journal(num_frames: int) -> bool:
    """Whether a video of so many frames (0: endless) is journaled where nobody says otherwise."""
    return num_frames == 0 or num_frames >= JOURNAL_FROM


def parse_redo(text: str) -> tuple[tuple[int, int], ...]:
    """`GenerateOptions.redo` from text: lines `120: 7`, the seed 7 from frame 120 on. Raises ValueError, one line."""
    pairs = []
    for line in filter(None, map(str.strip, text.splitlines())):
        start, _, seed = map(str.strip, line.partition(":"))
        if len(line) > _LONGEST_REDO or not (_is_number(start) and _is_number(seed)):
            raise ValueError(f"redo holds {line[:_LONGEST_REDO]!r}; give a frame and a seed a line, as in 120: 7")
        pairs.append((int(start), int(seed)))
    return tuple(pairs)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def record_frames(
    model: ARTV,
    text: TextTrack,
    options: GenerateOptions,
    recording: Recording | None,
    *,
    negative: Tensor | None = None,
    given: Sequence[Tensor] = (),
    anchor: AnchorPolicy | None = None,
    on_step: StepCallback | None = None,
    evaluate: Evaluate = evaluate,
) -> Generator[Frame, None, None]:
    """All frames of the video, given ones too (each [B, C, h, w]): those that a journal has come from there, to the
    bit; the others are made by `generate_frames`, and journaled. `options` are resolved ones. Without a `recording` all
    are made. Raises ValueError, one line, as `generate_frames` and `open_journal`, and `NotFiniteError` where a frame
    holds values that are no numbers; it is not journaled.
    """

    def make(frames: Iterable[Tensor]) -> Iterator[Frame]:
        return generate_frames(
            model, text, options, negative=negative, given=frames, anchor=anchor, on_step=on_step, evaluate=evaluate
        )

    if recording is None:
        before = (Frame(index, latent, None) for index, latent in enumerate(given))
        yield from finite_only(itertools.chain(before, make(given)))
        return
    inputs = FrameDigests(model, text, options, negative, given, anchor, recording.weights, evaluate)
    about = _about(model.config, options) | dict(recording.about)
    journal = open_journal(
        recording.folder,
        inputs,
        latent_shape(model, options),
        about,
        num_frames=options.num_frames,
        start_over=recording.start_over,
    )
    with journal:
        if recording.on_open is not None:
            recording.on_open(journal)
        # The journal copies every frame to main memory before it is handed on, so looking at it there waits no longer.
        for frame in journaled(journal, given, lambda frames: map(checked, make(frames))):
            yield _on_device(frame if frame.index >= max(journal.found, len(given)) else checked(frame), model)


def _about(config: ARTVConfig, options: GenerateOptions) -> dict[str, Any]:
    return {
        "checkpoint": config.name,
        "width": options.width,
        "height": options.height,
        "seed": options.seed,
        "fps": config.fps,
        "scale": config.vae.scale,
        "shift": config.vae.shift,
    }


def _on_device(frame: Frame, model: ARTV) -> Frame:
    device = model.noise.device
    mask = None if frame.mask is None else frame.mask.to(device)
    return Frame(frame.index, frame.latent.to(device), mask)


def _way_of(model: ARTV, evaluate: Evaluate) -> str:
    """Ways that give the same bits have the same name."""
    name = str(getattr(evaluate, "plain_name", type(evaluate).__name__))
    # On a card layers run fused while their weights fit. That depends on what else is loaded, and is rounding only.
    return f"{name}, layers fused where they fit" if model.noise.device.type == "cuda" else name


class FrameDigests:
    """What decides each frame of a run, as digests; see `journal.RunInputs`."""

    def __init__(
        self,
        model: ARTV,
        text: TextTrack,
        options: GenerateOptions,
        negative: Tensor | None,
        given: Sequence[Tensor],
        anchor: AnchorPolicy | None,
        weights: str | None = None,
        evaluate: Evaluate = evaluate,
    ) -> None:
        self._text, self._options, self._given = text, options, given
        self._contexts: dict[int, str] = {}
        policy = anchor or AnchorPolicy()
        settings = {name: value for name, value in vars(options).items() if name not in _BY_FRAME}
        shared = {
            "method": METHOD,
            "weights": weights or weights_digest(model),
            "config": model.config.to_json(),
            "computed": [model.noise.device.type, str(model.noise.dtype), _way_of(model, evaluate)],
            "settings": settings,
            "anchor": [policy.kind, policy.window if policy.kind == "rolling" else 0, tensor_digest(policy.latent)],
            "negative": tensor_digest(model.null_context if negative is None else negative),
        }
        self._common = hashlib.blake2b(json.dumps(shared, sort_keys=True).encode(), digest_size=16).hexdigest()

    @property
    def common(self) -> str:
        """What all frames share, but for the number of frames."""
        return self._common

    def frame(self, index: int) -> bytes:
        """Of a given frame its latent; of any other its text, seeds and noise levels."""
        starts = self._text.starts_segment(index)
        if index < len(self._given):
            return repr(("given", starts, tensor_digest(self._given[index]))).encode()
        levels = (self._options.reference_noise_level or 0, self._options.anchor_noise_level or 0)
        texts = [(self._context(context), weight) for context, weight in self._text.texts(index)]
        by_frame = (seeds_at(self._options, index), [level_at(level, index) for level in levels])
        return repr(("made", starts, texts, *by_frame)).encode()

    def _context(self, context: Tensor) -> str:
        # By identity: the track keeps its contexts, and hashing one for each frame would cost more than all the rest.
        if id(context) not in self._contexts:
            self._contexts[id(context)] = tensor_digest(context)
        return self._contexts[id(context)]


def weights_digest(model: ARTV) -> str:
    """Of all weights that frames are sampled with: names, types, shapes, bits. About a second for each gigabyte."""
    used = [(name, tensor) for name, tensor in model.state_dict().items() if name.startswith(("noise.", "mask."))]
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        digests = list(pool.map(tensor_digest, (tensor for _, tensor in used)))
    named = [f"{name} {digest}" for (name, _), digest in zip(used, digests, strict=True)]
    return hashlib.blake2b("\n".join(named).encode(), digest_size=16).hexdigest()


def tensor_digest(tensor: Tensor | None) -> str:
    """Of a tensor's type, shape and bits, wherever it lies."""
    if tensor is None:
        return ""
    data = tensor.detach().cpu().contiguous()
    digest = hashlib.blake2b(f"{data.dtype} {list(data.shape)}".encode(), digest_size=16)
    digest.update(data.view(-1).view(torch.uint8).numpy().data if data.numel() else b"")
    return digest.hexdigest()
