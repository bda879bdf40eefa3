"""Reports on a run while frames are made: the host's progress bar, previews of finished frames, interruption."""

import io
import logging
import math
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management as memory
import comfy.utils
import torch
from comfy.cli_args import LatentPreviewMethod, args
from PIL import Image
from server import PromptServer
from torch import Tensor

from ..artv_core.media import evenly_spaced
from ..artv_core.method.frames import Frame
from ..artv_core.method.samplers import StepInfo
from ..artv_core.run.drift import DriftReading
from ..artv_core.run.journal import Journal
from .checks import told
from .live import MAX_PICTURES, LiveMask, LiveReading, Run, run_of
from .preview_budget import Budget, Thinned

logger = logging.getLogger(__name__)

UPDATE_SECONDS = 0.05
"""Seconds between progress messages, because each goes to the browser through the host's event loop."""

MESSAGE_SECONDS = 0.25
"""Seconds between messages with pictures."""

PANEL_SHARE, PREVIEW_SHARE = 0.02, 0.01
"""Shares of the run's time that may be spent on pictures: for the panel in a page that watches, and for the host's own
previews."""

PICTURE_SIDE = 320
MASK_SIDE = 64
MAX_PENDING = 16

Decode = Callable[[Tensor], Tensor]
"""Decodes the core's latents [T, C, h, w] to images [T, 3, H, W] in [0, 1]."""


@contextmanager
def failures_told(run: Run) -> Iterator[None]:
    """What ends a run before its first frame, such as weights that do not fit into memory, is told as well."""
    try:
        yield
    except BaseException as error:
        if run.state == "running":
            _tell_end(run, error)
        raise


def _tell_end(run: Run, error: BaseException | None) -> None:
    if error is None:
        run.tell("finished")
    elif isinstance(error, memory.InterruptProcessingException | GeneratorExit):
        run.tell("stopped")
    else:
        run.tell("failed", told(error) or type(error).__name__)


@dataclass(frozen=True)
class _Pending:
    """A finished frame that has not been shown: latent [1, C, h, w], and image [1, 3, H, W] if it was decoded."""

    index: int
    latent: Tensor
    image: Tensor | None


class Monitor:
    """Context manager for one run: a progress bar over frames times steps, and pictures of finished frames. They are
    decoded with the VAE itself, only as many as fit in a small share of the run's time.

    `decode` is None if there is no VAE. `keyframes` are frames that take no steps. For a batch, the first video is
    shown.
    """

    def __init__(
        self,
        run: Run,
        num_given: int,
        num_steps: int,
        decode: Decode | None,
        keyframes: Container[int] = (),
    ) -> None:
        self.run, self._decode = run, decode
        run.known, run.blind = num_given, None if decode else "vae"
        self._given, self._steps, self._keyframes = num_given, num_steps, keyframes
        self._total = (run.total - num_given) * num_steps
        self._bar = comfy.utils.ProgressBar(self._total)
        self._budget = Budget(PANEL_SHARE if run.wants_pictures else PREVIEW_SHARE)
        self._pending = Thinned[_Pending](MAX_PENDING)
        self._next_update = self._next_message = 0.0
        self._saved: int | None = None  # frames in the journal before this run
        self.journal = "no journal is kept"

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: Any) -> None:
        _tell_end(self.run, error)

    def opened(self, journal: Journal) -> None:
        """Call before the first frame, because some frames may exist already, and after each step back, when the frames
        that are saved are those of this run."""
        if self._saved is None:
            self._saved = journal.found
            self.run.known = max(self._given, journal.found)
        missing = self.run.total - max(self._given, self._saved)
        self.journal = f"{journal.path.name}: {self._saved} frames were already saved, {missing} had to be made"
        logger.info("ARTV journal %s", self.journal)

    def step(self, frame_index: int, info: StepInfo) -> None:
        """Call after each step. Stops if the user interrupted; moves the progress bar, but not too often."""
        share = (info.step + 1) / info.num_steps  # a first frame may have more steps than the others
        self._advance((frame_index - self._given) * self._steps + round(self._steps * share))

    def finished(self, frame: Frame, reading: DriftReading, image: Tensor | None = None) -> None:
        """Call after each frame, with the drift of the first video, and with `image` [1, 3, H, W] if it was decoded
        anyway."""
        done = max(0, (frame.index - self._given + 1) * self._steps)
        if frame.index < self.run.known or frame.index in self._keyframes:
            self._advance(done)
        self.run.frame(_live_reading(reading), _live_mask(frame))
        self._pending.add(_Pending(frame.index, frame.latent[:1], image))
        last = self.run.done == self.run.total
        if last or time.monotonic() >= self._next_message:
            self._next_message = time.monotonic() + MESSAGE_SECONDS
            self._show(done)

    def cut(self, count: int) -> None:
        """Call after a step back, when only the first `count` frames are left."""
        self._pending.cut(count)
        self.run.known = min(self.run.known, count)
        self.run.cut(count)

    def ended(self) -> None:
        """Call after the last frame; a run that was stopped has fewer of them than it was asked for."""
        if self.run.done < self.run.total:
            self.run.total = self.run.done
            if self._pending.items:
                self._show(self._total)
            self._bar.update_absolute(self._total, self._total)

    def _show(self, done: int) -> None:
        previewed = host_previews() and not self.run.is_shown and PromptServer.instance.sockets
        if previewed or self.run.wants_pictures:
            self._show_pictures(done)
        self.run.tell()

    def _show_pictures(self, done: int) -> None:
        """Show as many of the new frames as there is time for, evenly spaced, the latest one included. At the end of a
        run the panel always gets the last frame."""
        waiting = self._pending.items
        count = self._budget.affordable(len(waiting))
        if self.run.wants_pictures and self.run.done == self.run.total:
            count = max(1, count)
        if not count:
            return
        chosen = [waiting[-1 - place] for place in reversed(evenly_spaced(len(waiting), count))]
        with self._budget.spending(count):
            for frame in chosen:
                picture = self._picture(frame)
                self.run.show(frame.index, jpeg(picture) if picture is not None else None)
            if picture is not None and host_previews() and not self.run.is_shown:
                self._bar.update_absolute(done, self._total, ("JPEG", picture, args.preview_size))
        waiting.clear()

    def _picture(self, frame: _Pending) -> Image.Image | None:
        if frame.image is not None:
            return as_picture(frame.image[0])
        return as_picture(self._decode(frame.latent)[0]) if self._decode is not None else None

    def _advance(self, done: int) -> None:
        memory.throw_exception_if_processing_interrupted()
        if done == self._total or time.monotonic() >= self._next_update:
            self._next_update = time.monotonic() + UPDATE_SECONDS
            self._bar.update_absolute(done, self._total)


def counter(total: int) -> Callable[[], None]:
    """A progress bar for a node that is not a sampler: call it after each of `total` pieces. It stops if the user
    interrupted."""
    bar = comfy.utils.ProgressBar(total)

    def count() -> None:
        memory.throw_exception_if_processing_interrupted()
        bar.update(1)

    return count


def completes(latents: Tensor) -> Callable[[int, Tensor], None]:
    """For a node that decodes the latents [T, C, h, w] of a sampler: a function to call with each frame's index and
    image [3, H, W]. The page then shows the frames that there was no time for during sampling."""
    run, last = run_of(latents), len(latents) - 1
    if run is None or not run.wants_pictures:
        return lambda index, image: None
    stride = math.ceil(len(latents) / MAX_PICTURES)
    next_message = time.monotonic() + MESSAGE_SECONDS

    def show(index: int, image: Tensor) -> None:
        nonlocal next_message
        if index % stride == 0 or index == last:
            run.show(index, jpeg(as_picture(image)))
        if index == last or time.monotonic() >= next_message:
            next_message = time.monotonic() + MESSAGE_SECONDS
            run.tell()

    return show


def host_previews() -> bool:
    """Whether the host is set to show its own previews."""
    return args.preview_method != LatentPreviewMethod.NoPreviews


def as_picture(image: Tensor) -> Image.Image:
    """An image [3, H, W] in [0, 1] as a PIL image."""
    pixels = (image.clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return Image.fromarray(pixels.movedim(0, -1).contiguous().numpy())


def jpeg(picture: Image.Image) -> bytes:
    """A small JPEG, with no side longer than `PICTURE_SIDE`."""
    small = picture.copy()
    small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return file.getvalue()


def _live_reading(reading: DriftReading) -> LiveReading:
    return LiveReading(reading.index, *map(_short, (reading.shift, reading.sharpness, reading.copied)))


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _live_mask(frame: Frame) -> LiveMask | None:
    """The first video's mask, thinned out so that no side is longer than `MASK_SIDE`."""
    if frame.mask is None:
        return None
    stride = math.ceil(max(frame.mask.shape[-2:]) / MASK_SIDE)
    cells = (frame.mask[0, 0, ::stride, ::stride].float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    height, width = cells.shape
    return LiveMask(frame.index, width, height, cells.contiguous().numpy().tobytes())
