"""A job: one run of the sampler and the files it writes, frame by frame, with a progress bar."""

from __future__ import annotations

import dataclasses
import functools
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..method.frames import AnchorPolicy
    from ..method.generate import GenerateOptions
    from ..method.samplers import StepInfo
    from .journal import Journal
    from .pipeline import DecodedFrame, Pipeline
    from .recording import Recording

MAX_SETTINGS = 16_000
"""Characters of the settings that a journal keeps."""

INTERRUPTED = 130
"""Exit code of a run that was stopped by Ctrl-C; what it made is kept."""


def say(message: str) -> None:
    """One line for the user, on stderr."""
    print("artv:", " ".join(message.split()), file=sys.stderr)


@functools.cache
def version() -> str:
    """Of the installed package."""
    from importlib import metadata

    try:
        return metadata.version("comfyui-artv")
    except metadata.PackageNotFoundError:
        return "(not installed)"


@dataclass(frozen=True)
class Job:
    """What to make and where to put it. `options` are resolved; `videos`, and `masks` and `drift` if they are wanted,
    have one path for each video of the batch; `given` [T, B, C, h, w] are frames to go on from.

    `journal` is a folder: every frame is kept there, and those of an earlier run of the same job, if it was cut off,
    are taken from there unless `start_over`. With `stream` the videos can be watched while they grow.
    """

    prompts: Sequence[tuple[int, str]]
    options: GenerateOptions
    videos: Sequence[Path]
    fps: float
    masks: Sequence[Path] = ()
    latents: Path | None = None
    upscale: int = 1
    image: Path | None = None
    given: Tensor | None = None
    negative: str | None = None
    anchor: str = "segment"
    anchor_image: Path | None = None
    checkpoint: str = ""
    journal: Path | None = None
    start_over: bool = False
    stream: bool = False
    drift: Sequence[Path] = ()

    @property
    def num_given(self) -> int:
        """Frames that need not be made."""
        return 1 if self.image is not None else 0 if self.given is None else len(self.given)

    def settings(self) -> str:
        """What decides a frame beside its prompt, seed and predecessors, as JSON: to be kept when going on."""
        elsewhere = ("num_frames", "seed", "batch_size", "height", "width")
        settings = {name: value for name, value in dataclasses.asdict(self.options).items() if name not in elsewhere}
        named = {"checkpoint": self.checkpoint, "anchor": self.anchor, "negative": self.negative}
        return json.dumps({**named, **settings}, sort_keys=True)

    def comment(self, video: int) -> str:
        """What is stored in a video's file: prompts, seed and settings, as JSON."""
        settings = dataclasses.asdict(self.options)
        settings["seed"] += video
        del settings["batch_size"]
        inputs = {"image": self.image, "negative": self.negative, "anchor_image": self.anchor_image}
        named = {name: getattr(value, "name", value) for name, value in inputs.items() if value is not None}
        made_by = {"artv": version(), "checkpoint": self.checkpoint, "anchor": self.anchor}
        return json.dumps({**made_by, "prompts": [list(prompt) for prompt in self.prompts], **named, **settings})


def check_images(job: Job) -> None:
    """Raises ValueError, before any time is spent, where an image of the job cannot be read."""
    for image in (job.image, job.anchor_image):
        if image is not None:
            _read(image, job)


def changed_settings(job: Job, made_with: str) -> list[str]:
    """Settings in which the job differs from the frames that it goes on from, as "name: then -> now"."""
    try:
        then = json.loads(made_with or "{}")
    except (ValueError, RecursionError):  # from a file, which anyone may have written
        return []
    now = json.loads(job.settings())
    known = [name for name in now if isinstance(then, dict) and name in then]
    return [f"{name}: {str(then[name])[:100]} -> {now[name]}" for name in known if then[name] != now[name]]


def run_job(
    pipeline: Pipeline, job: Job, label: str = "", on_frame: Callable[[DecodedFrame], None] | None = None
) -> int:
    """Sample the job and write its files, frame by frame. Returns how many frames were written.

    The first Ctrl-C (or SIGTERM) lets the current frame finish, the second one does not; what was made is kept.
    """
    from .outputs import Outputs

    progress = Progress(job.options.num_frames, job.num_given, label)
    frames = _frames(pipeline, job, progress)  # first: what does not fit is said before a bar is shown
    with ExitStack() as stack:
        stack.enter_context(progress)
        stopped = stack.enter_context(_first_stop_noted())
        outputs = stack.enter_context(Outputs(job))
        stack.enter_context(closing(frames))
        with suppress(KeyboardInterrupt):
            for frame in frames:
                outputs.append(frame)
                if on_frame is not None:
                    on_frame(frame)
                progress.frame(frame.index)
                if stopped.is_set():
                    break
    if progress.count < job.options.num_frames:
        kept = "; run the same again to go on from there" if job.journal else ""
        say(f"stopped after {progress.count} of {job.options.num_frames} frames{kept}")
    return progress.count


def _frames(pipeline: Pipeline, job: Job, progress: Progress) -> Generator[DecodedFrame, None, None]:
    image = None if job.image is None else _read(job.image, job)
    return pipeline.frames(
        job.prompts,
        job.options,
        image=image,
        given=job.given,
        negative=job.negative,
        anchor=_anchor_policy(pipeline, job),
        on_step=progress.step,
        recording=_recording(job, progress),
    )


def _recording(job: Job, progress: Progress) -> Recording | None:
    from .recording import Recording

    if job.journal is None:
        return None

    def report(journal: Journal) -> None:
        if journal.found > job.num_given:
            progress.say(f"going on from frame {journal.found}, which is as far as {journal.path} goes")
            progress.num_given = journal.found

    about = {"prompt": job.prompts[0][1][:200], "settings": job.settings()[:MAX_SETTINGS]}
    return Recording(job.journal, job.start_over, about=about, on_open=report)


def _anchor_policy(pipeline: Pipeline, job: Job) -> AnchorPolicy:
    from ..method.frames import AnchorPolicy

    if job.anchor_image is None:
        return AnchorPolicy(job.anchor)
    return AnchorPolicy("given", latent=pipeline.encode_image(_read(job.anchor_image, job)))


def _read(path: Path, job: Job) -> Tensor:
    from ..media import read_image

    return read_image(path, job.options.height or 0, job.options.width or 0)


@contextmanager
def _first_stop_noted() -> Iterator[threading.Event]:
    """The first Ctrl-C, or SIGTERM, sets the event, and only the next one ends the process."""
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


class Progress:
    """A bar on stderr: frames, seconds per frame, time left, and the step that is being made."""

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
        """A line of its own above the bar."""
        self._bar.clear()
        say(message)

    def frame(self, index: int) -> None:
        """A frame is finished; one that was there already is none that was made, and has no part in the rate."""
        self.count = index + 1
        if index >= self.num_given:
            self._bar.update()
        else:
            self._bar.n = self._bar.initial = max(self._bar.n, self.count)

    def step(self, frame: int, info: StepInfo) -> None:
        """A step is finished: shown now and then, for a frame may take minutes."""
        now = time.monotonic()
        if now - self._refreshed > self.REFRESH_SECONDS:
            self._refreshed = now
            self._bar.set_postfix_str(f"step {info.step + 1}/{info.num_steps}")
