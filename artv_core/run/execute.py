"""Runs a job: samples and writes frames one by one, with a progress bar, until the end or Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING

from ..files.terminal import say
from ..method.frames import AnchorPolicy
from .job import Job, read_job_image
from .outputs import Outputs
from .recording import Recording

if TYPE_CHECKING:
    from ..method.samplers import StepInfo
    from .journal import Journal
    from .pipeline import DecodedFrame, Pipeline

MAX_SETTINGS = 16_000
"""Most characters of the settings that a journal stores."""


def run_job(
    pipeline: Pipeline, job: Job, label: str = "", on_frame: Callable[[DecodedFrame], None] | None = None
) -> int:
    """Sample the job and write its files, frame by frame. Returns how many frames were written.

    The first Ctrl-C (or SIGTERM) lets the current frame finish; the second one stops at once. Finished frames are kept:
    while their files are finished, Ctrl-C does nothing.
    """
    progress = Progress(job.options.num_frames, job.num_given, label)
    frames = _frames(pipeline, job, progress)  # first, so that input errors appear before the bar
    with progress, first_stop_noted() as stopped, ExitStack() as files:
        outputs = files.enter_context(Outputs(job))
        files.enter_context(closing(frames))
        with suppress(KeyboardInterrupt):
            for frame in frames:
                outputs.append(frame)
                if on_frame is not None:
                    on_frame(frame)
                progress.frame(frame.index)
                if stopped.is_set():
                    break
        with _ctrl_c_ignored():
            files.close()
    if progress.count < job.options.num_frames:
        again = "the same command without --start-over" if job.start_over else "the same command again"
        kept = f"; run {again} to continue" if job.journal else ""
        say(f"stopped after {progress.count} of {job.options.num_frames} frames{kept}")
    return progress.count


def _frames(pipeline: Pipeline, job: Job, progress: Progress) -> Generator[DecodedFrame, None, None]:
    image = None if job.image is None else read_job_image(job.image, job)
    return pipeline.frames(
        job.prompts,
        job.options,
        image=image,
        given=job.given,
        negative=job.negative,
        anchor=_anchor_policy(pipeline, job),
        on_step=progress.step,
        recording=_recording(job, progress),
        keyframes={frame: pipeline.encode_image(read_job_image(path, job)) for frame, path in job.keyframes},
    )


def _recording(job: Job, progress: Progress) -> Recording | None:
    if job.journal is None:
        return None

    def report(journal: Journal) -> None:
        if journal.found > job.num_given:
            progress.say(f"continuing from frame {journal.found}, with the frames in {journal.path}")
            progress.num_given = journal.found

    about = {"prompt": job.prompts[0][1][:200], "settings": job.settings()[:MAX_SETTINGS]}
    return Recording(job.journal, job.start_over, about=about, on_open=report)


def _anchor_policy(pipeline: Pipeline, job: Job) -> AnchorPolicy:
    if not job.anchor_images:
        return AnchorPolicy(job.anchor)
    latents = tuple(pipeline.encode_image(read_job_image(path, job)) for path in job.anchor_images)
    return AnchorPolicy("given", latent=latents[0]) if len(latents) == 1 else AnchorPolicy("given", by_segment=latents)


@contextmanager
def first_stop_noted() -> Iterator[threading.Event]:
    """The first Ctrl-C or SIGTERM only sets the event. The next one ends the process."""
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(*_: object) -> None:
        noted.set()
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: None)  # SIG_IGN would be inherited by processes that are started
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Progress:
    """A progress bar on stderr: frames, seconds per frame, time left, and the current step."""

    FORMAT = "{desc}{percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} frames, {rate_inv_fmt}, {remaining} left{postfix}"
    ENDLESS = "{desc}{n_fmt} frames, {rate_inv_fmt}{postfix}"
    REFRESH_SECONDS = 0.5

    def __init__(self, num_frames: int, num_given: int, label: str = "") -> None:
        self.num_frames, self.num_given, self.label = num_frames, num_given, label
        self.count = 0
        self._refreshed = 0.0

    def __enter__(self) -> Progress:
        from tqdm import tqdm

        self._bar = tqdm(
            total=self.num_frames or None,
            initial=self.num_given,
            desc=self.label,
            bar_format=self.FORMAT if self.num_frames else self.ENDLESS,
            unit="frame",
            file=sys.stderr,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.set_postfix_str("", refresh=False)
        self._bar.close()

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self._bar.clear()
        say(message)

    def frame(self, index: int) -> None:
        """Count a finished frame. Frames that existed before this run do not count for the rate."""
        self.count = index + 1
        if index >= self.num_given:
            self._bar.update()
        else:
            self._bar.n = self._bar.initial = max(self._bar.n, self.count)

    def step(self, frame: int, info: StepInfo) -> None:
        """Show a finished step, at most every `REFRESH_SECONDS`. A frame may take minutes."""
        now = time.monotonic()
        if now - self._refreshed > self.REFRESH_SECONDS:
            self._refreshed = now
            self._bar.set_postfix_str(f"step {info.step + 1}/{info.num_steps}")
