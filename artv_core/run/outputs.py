"""The files that a job writes: videos, mask videos, latents, and drift readouts."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.partial_file import check_writable
from ..media import VideoWriter, mask_frames
from .drift import DriftLog, DriftMeter, drift_table, plot_path, read_drift_csv, save_plot
from .pipeline import DecodedFrame, save_latents

if TYPE_CHECKING:
    from torch import Tensor

    from .job import Job


def check_outputs(job: Job, inputs: Sequence[Path] = ()) -> None:
    """Raises ValueError if a file of the job cannot be written, or if it is another output, an image of the job or one
    of `inputs`: files that are read for the job. Call it before slow work."""
    writers = [VideoWriter(path, job.fps, upscale=job.upscale) for path in (*job.videos, *job.masks)]
    growing = [writer.growing_path for writer in writers] if job.stream else []
    check_distinct([*output_paths(job), *growing], [*job.images, *inputs], [plot_path(path) for path in job.drift])


def check_distinct(outputs: Sequence[Path], inputs: Sequence[Path], plots: Sequence[Path] = ()) -> None:
    """Raises ValueError if an output cannot be written, or if it is another output or one of `inputs`. `plots` are
    those outputs that are plots of a drift readout."""
    checked: list[Path] = []
    for path in outputs:
        beside = "; a drift readout has its plot beside it" if path in plots else ""
        if any(_is_same(path, read) for read in inputs):
            raise ValueError(f"{path} is an input and would be overwritten{beside}; give the output another path")
        if any(_is_same(path, other) for other in checked):
            raise ValueError(f"{path} is the path of two outputs{beside}; give each output its own path")
        checked.append(path)
        check_writable(path)


def _is_same(path: Path, other: Path) -> bool:
    """Whether both are one file: through links, and by other letters where the drive takes them as equal."""
    if os.path.normcase(os.path.realpath(path)) == os.path.normcase(os.path.realpath(other)):
        return True
    with suppress(OSError):  # one of them does not exist yet
        return path.samefile(other)
    return False


def output_paths(job: Job) -> list[Path]:
    """All files that a complete job writes."""
    latents = [job.latents] if job.latents else []
    return [*job.videos, *job.masks, *latents, *job.drift, *map(plot_path, job.drift)]


class Outputs:
    """Context manager that writes a job's frames to its files. Raises ValueError if that fails.

    At the end, an output that cannot be finished stops no other: its error is raised when the others are finished.

    Memory does not grow with the length of the video, unless `job.latents` is set: latents are kept until the end.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.count = 0
        self._writers = _video_writers(job)
        self._readouts = [_DriftReadout(path) for path in job.drift]
        self._latents: list[Tensor] = []

    def __enter__(self) -> Outputs:
        with ExitStack() as entered:  # exits those already entered if the next one fails
            for writer in self._writers:
                entered.enter_context(writer)
            for readout in self._readouts:
                entered.enter_context(readout)
            entered.pop_all()
        return self

    def append(self, frame: DecodedFrame) -> None:
        """Write the next frame of every video of the batch."""
        images = list(frame.image.cpu())
        for video, readout in enumerate(self._readouts):
            readout.append(frame.index, images[video], None if frame.mask is None else frame.mask[video, 0])
        if self.job.masks:
            images += list(_mask_images(frame))
        for writer, image in zip(self._writers, images, strict=True):
            writer.append(image)
        if self.job.latents:
            self._latents.append(frame.latent.cpu())
        self.count += 1

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        with ExitStack() as last_first:
            if kind is None and self.count:
                for readout in self._readouts:
                    last_first.callback(readout.show)
                last_first.callback(self._save_latents)
            for readout in self._readouts:
                last_first.callback(readout.__exit__, kind, *error)
            for writer in self._writers:
                last_first.callback(writer.__exit__, kind, *error)

    def _save_latents(self) -> None:
        if self.job.latents:
            save_latents(self.job.latents, self._latents, self.job.options.seed, self.job.settings())


class _DriftReadout:
    """One video's drift: writes a row for each frame, and at the end a table and a plot."""

    def __init__(self, path: Path) -> None:
        self._log, self._meter = DriftLog(path), DriftMeter()

    def __enter__(self) -> _DriftReadout:
        self._log.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._log.__exit__(*error)

    def append(self, index: int, image: Tensor, mask: Tensor | None) -> None:
        self._log.append(self._meter.read(index, image, mask))

    def show(self) -> None:
        readings = read_drift_csv(self._log.path)
        print(drift_table(readings), file=sys.stderr)
        save_plot(self._log.path, readings)


def _video_writers(job: Job) -> list[VideoWriter]:
    paths: Sequence[tuple[int, Path]] = [*enumerate(job.videos), *enumerate(job.masks)]
    return [
        VideoWriter(path, job.fps, upscale=job.upscale, comment=job.comment(video), growing=job.stream)
        for video, path in paths
    ]


def _mask_images(frame: DecodedFrame) -> Tensor:
    """The frame's masks as grey images [B, 3, H, W]. Black if there is no mask, since nothing was copied."""
    mask = frame.latent[:, :1] * 0 if frame.mask is None else frame.mask
    return mask_frames(mask.cpu(), *frame.image.shape[-2:])
