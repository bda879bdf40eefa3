"""Runs with a journal: digests of the inputs that decide the frames, and generation with reading from and writing to a
journal. Not in the paper.

The same inputs give the same digests in every process, so an interrupted run finds its frames again. The number of
frames is not part of the digests, so a longer run can continue a shorter one.
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
from ..method.denoiser import RunNetworks
from ..method.frames import AnchorPolicy, Frame
from ..method.generate import VideoRequest, as_batch, check_keyframes, generate_frames, latent_shape
from ..method.options import GenerateOptions, level_at, scale_at, seeds_at
from ..models.artv import ARTV
from .finite_frames import checked, finite_only
from .journal import Journal, journaled, open_journal

JOURNAL_FROM = 33
"""By default, videos with at least this number of frames have a journal."""

METHOD = 2
"""Increased when a release makes different frames from the same inputs, so that no video mixes the two."""

_LONGEST_REDO = 50
_BY_FRAME = ("num_frames", "seed", "redo", "reference_noise_level", "anchor_noise_level")


@dataclass(frozen=True)
class Recording:
    """Settings for a run's journal. `folder` contains the journals. `start_over` ignores existing ones. `weights` is
    the result of `weights_digest`, if known already. `about` is information for users, stored in the journal. `on_open`
    is called with the journal before any frame is made."""

    folder: Path
    start_over: bool = False
    weights: str | None = None
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    on_open: Callable[[Journal], None] | None = None


def wants_journal(num_frames: int) -> bool:
    """Whether a video of `num_frames` frames (0: no end) has a journal by default."""
    return num_frames == 0 or num_frames >= JOURNAL_FROM


def parse_redo(text: str) -> tuple[tuple[int, int], ...]:
    """`GenerateOptions.redo` from text such as `120: 7, 140: 8`, with commas or lines: seed 7 from frame 120 on, 8 from
    frame 140 on. Raises ValueError on anything else."""
    pairs = []
    for line in filter(None, map(str.strip, text.replace(",", "\n").splitlines())):
        start, _, seed = map(str.strip, line.partition(":"))
        if len(line) > _LONGEST_REDO or not (_is_number(start) and _is_number(seed)):
            line = line[:_LONGEST_REDO]
            raise ValueError(
                f"redo has {line!r}; give a frame and a seed, as in 120: 7, and commas or lines between several"
            )
        pairs.append((int(start), int(seed)))
    return tuple(pairs)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def record_frames(
    model: ARTV, request: VideoRequest, recording: Recording | None = None, given: Sequence[Tensor] = ()
) -> Generator[Frame, None, None]:
    """Yield all frames of the video, starting with the `given` ones (each [B, C, h, w]). Frames that a journal contains
    are read from it, bit for bit. `generate_frames` makes the others, and they are appended to the journal. Without a
    `recording` there is no journal.

    Raises the errors of `check_keyframes`, `generate_frames` and `open_journal`, and `NotFiniteError` on a frame with
    infinite values or NaN, which does not go into the journal.
    """

    def make(frames: Iterable[Tensor]) -> Iterator[Frame]:
        return generate_frames(model, request, frames)

    check_keyframes(request.keyframes, len(given), request.options.num_frames)
    if recording is None:
        before = (Frame(index, latent, None) for index, latent in enumerate(given))
        yield from finite_only(itertools.chain(before, make(given)))
        return
    options = request.options
    inputs = FrameDigests(model, request, given, recording.weights)
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
        # The journal copies every frame to main memory before it is yielded, so checking it here costs no extra wait.
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


def _way_of(model: ARTV, run_networks: RunNetworks) -> str:
    """A name for the way of computing. Ways with identical results have the same name."""
    name = str(getattr(run_networks, "plain_name", type(run_networks).__name__))
    # On a GPU, layers run fused if their weights fit. That depends on what else is loaded, and changes only rounding.
    return f"{name}, layers fused where they fit" if model.noise.device.type == "cuda" else name


class FrameDigests:
    """Digests of the inputs that decide each frame of a run; see `journal.RunInputs`."""

    def __init__(self, model: ARTV, request: VideoRequest, given: Sequence[Tensor], weights: str | None = None) -> None:
        options, policy, negative = request.options, request.anchor, request.negative
        self._text, self._options, self._given = request.text, options, given
        self._keyframes = {index: as_batch(latent, options, model) for index, latent in request.keyframes.items()}
        self._anchors = [tensor_digest(latent) for latent in policy.by_segment]
        self._contexts: dict[int, str] = {}
        settings = {name: value for name, value in vars(options).items() if name not in _BY_FRAME}
        if options.history_guidance == 1:  # it is then without effect, and earlier releases did not have it
            del settings["history_guidance"], settings["history_noise_level"]
        if not options.first_frame_steps:  # as above
            del settings["first_frame_steps"]
        if not options.return_to_anchor:  # as above
            del settings["return_to_anchor"]
        if isinstance(options.guidance_text, tuple):
            settings["guidance_text"] = "by frame"  # a single scale stays, as in journals of earlier releases
        shared = {
            "method": METHOD,
            "weights": weights or weights_digest(model),
            "config": model.config.to_json(),
            "computed": [model.noise.device.type, str(model.noise.dtype), _way_of(model, request.run_networks)],
            "settings": settings,
            "anchor": _anchor_digest(policy),
            "negative": tensor_digest(model.null_context if negative is None else negative),
        }
        self._common = hashlib.blake2b(json.dumps(shared, sort_keys=True).encode(), digest_size=16).hexdigest()

    @property
    def common(self) -> str:
        """The digest of the inputs that all frames share, without the number of frames."""
        return self._common

    def frame(self, index: int) -> bytes:
        """The inputs of one frame. For a given frame or a keyframe, its latent; for any other, its text, seeds and
        noise levels, its guidance scale if that changes from frame to frame, and the anchor of its prompt if each has
        its own."""
        starts = self._text.starts_segment(index)
        if index < len(self._given):
            return repr(("given", starts, tensor_digest(self._given[index]))).encode()
        if index in self._keyframes:
            return repr(("keyframe", starts, tensor_digest(self._keyframes[index]))).encode()
        levels = (self._options.reference_noise_level or 0, self._options.anchor_noise_level or 0)
        texts = [(self._context(context), weight) for context, weight in self._text.texts(index)]
        by_frame: list[Any] = [seeds_at(self._options, index), [level_at(level, index) for level in levels]]
        if isinstance(self._options.guidance_text, tuple):
            by_frame.append(float(scale_at(self._options.guidance_text, index)))
        if self._anchors:
            by_frame.append(self._anchors[self._text.segment(index)])
        return repr(("made", starts, texts, *by_frame)).encode()

    def _context(self, context: Tensor) -> str:
        # Cached by identity: the track keeps its contexts, and hashing one for each frame would be slow.
        if id(context) not in self._contexts:
            self._contexts[id(context)] = tensor_digest(context)
        return self._contexts[id(context)]


def _anchor_digest(policy: AnchorPolicy) -> list[Any]:
    """The part of an anchor policy that all frames share. Anchors by segment are inputs of single frames, so that
    earlier frames are kept if a later anchor changes."""
    if policy.by_segment:
        return [policy.kind, "by segment"]
    return [policy.kind, policy.window if policy.kind == "rolling" else 0, tensor_digest(policy.latent)]


def weights_digest(model: ARTV, dtypes: Mapping[str, torch.dtype] | None = None) -> str:
    """A digest of all weights of the noise and mask networks: names, dtypes, shapes and values. Takes about a second
    per gigabyte. `dtypes` gives the type, by the name of a weight, in which it will be used if that is another one."""
    dtypes = dtypes or {}
    used = [(name, tensor) for name, tensor in model.state_dict().items() if name.startswith(("noise.", "mask."))]
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        digests = list(pool.map(lambda item: tensor_digest(item[1].to(dtypes.get(item[0], item[1].dtype))), used))
    named = [f"{name} {digest}" for (name, _), digest in zip(used, digests, strict=True)]
    return hashlib.blake2b("\n".join(named).encode(), digest_size=16).hexdigest()


def tensor_digest(tensor: Tensor | None) -> str:
    """A digest of a tensor's dtype, shape and values; "" for None. It does not depend on the device."""
    if tensor is None:
        return ""
    data = tensor.detach().cpu().contiguous()
    digest = hashlib.blake2b(f"{data.dtype} {list(data.shape)}".encode(), digest_size=16)
    digest.update(data.view(-1).view(torch.uint8).numpy().data if data.numel() else b"")
    return digest.hexdigest()
