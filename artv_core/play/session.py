"""One video that is made while it is watched and directed. Not in the paper.

A thread makes the frames. It stays a few frames ahead of what is shown, so that what is said is soon seen. In the time
that is left it saves what was played. If PyTorch uses one thread, another one decodes a frame while the next is made.
"""

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..files.user_errors import Remedy, UserError
from ..method.frames import Frame
from ..method.options import seeds_at
from ..run.journal import Journal
from ..run.pipeline import Pipeline
from ..run.steering import SteeredRun
from .pace import Pace
from .pictures import Picture, encoded
from .saving import Take, save_take
from .trial import decodes_beside
from .words import turned

BACK_SECONDS = 2.0
SHOWN_PROMPTS = 200
"""How many of the last prompts the page is told."""

SAVING_SHARE = 0.25
"""A model that cannot keep up has no time left: this share of each frame's time is then for saving. A model that keeps
up saves at least one frame for each frame that it makes."""

WHERE = {Remedy.NO_JOURNAL: "choose another folder (--output)"}
"""What a user can do about an error: a video that is directed always has a journal."""

Repeat = Callable[..., str]


class Session:
    """A steered run that keeps ahead of what is shown. All methods can be called from any thread.

    The run must have a recording. `repeat` is as in `Take`. `on_change` is called, from any thread, whenever `status`
    or `pictures_after` has something new.
    """

    def __init__(
        self, pipeline: Pipeline, run: SteeredRun, folder: Path, repeat: Repeat, resumed: bool = False
    ) -> None:
        assert run.recording is not None
        self.pipeline, self.run, self._folder, self._repeat = pipeline, run, folder, repeat
        self.pace = Pace(pipeline.model.config.fps)
        self.total = run.request.options.num_frames
        self.on_change: Callable[[], None] = lambda: None
        self.failure: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="artv play", daemon=True)
        self._pictures: deque[Picture] = deque()
        self._showing: Future[None] | None = None
        self._number = self._take = 0
        self._made = self._position = -1  # indices of the last frame that was made, and of the last that was shown
        self._begin = 0  # the first frame that is shown: a run that goes on begins with its last frame
        self._journal: Path | None = None
        self._text: str | None = None  # what was said last
        self._back: int | None = None  # the frame of a step back that is not taken yet
        self._paused = self._closed = False
        self._saving: Iterator[tuple[Path, int]] | None = None
        self._saved: dict[str, Any] | None = None
        told = run.recording.on_open

        def opened(journal: Journal) -> None:
            if self._journal is None and resumed:
                self._begin = self._position = max(0, journal.found - 1)
                self._position -= 1
            self._journal = journal.path
            if told is not None:
                told(journal)

        run.recording = dataclasses.replace(run.recording, on_open=opened)

    # For whoever shows and directs the video

    def start(self) -> None:
        """Begin to make frames."""
        self._thread.start()

    def close(self, seconds: float | None = None) -> None:
        """End with the frame that is being made, and with a video that is being saved. Waits for that, at most
        `seconds`."""
        with self._change():
            self._closed = True
        self._thread.join(seconds)

    @property
    def text(self) -> str:
        """The prompt that counts, or will count from the next frame on."""
        return self.run.track.prompts[-1][1] if self._text is None else self._text

    @property
    def ended(self) -> bool:
        """Whether all frames are made."""
        return 0 < self.total == self._made + 1 and self._back is None

    @property
    def made(self) -> int:
        """The number of frames there are."""
        return self._made + 1

    def say(self, text: str) -> None:
        """Let `text` count from the next frame on that is not begun. Raises ValueError as `Steering.say`, and if no
        frame will be made any more."""
        with self._change():
            self._check_going_on()
            self.run.steering.say(text)
            self._text = text.strip()

    def turn(self, direction: str) -> None:
        """Say the same with a motion in another direction. Raises ValueError as `say` and `turned`."""
        self.say(turned(self.text, direction))

    def pause(self, paused: bool) -> None:
        """Begin no further frame, or go on."""
        with self._change():
            self._paused = paused

    def back(self, seconds: float = BACK_SECONDS) -> int:
        """Make the last seconds of what was shown again, with another seed and the prompt that counts now. Returns the
        first frame that is made again, at least 1. Raises ValueError if nothing was shown that can be made again."""
        with self._change():
            if self.failure is not None:
                self._check_going_on()
            frame = max(1, self._position + 1 - round(seconds * self.pace.fps))
            if self._position < 1 or self._made < 1:
                raise ValueError("there is nothing to go back to yet: the first frame stays")
            steering = self.run.steering
            self._back = steering.back_to(frame, steering.next_seed(), self.text)
            self._take += 1
            self._position, self._begin = min(self._position, frame - 1), min(self._begin, frame)
            self._pictures.clear()
            return frame

    def save(self) -> None:
        """Save what was shown so far, in the time that is left. `status` tells when it is done. Raises ValueError if
        nothing was shown, or while a video is being saved."""
        with self._change():
            if self._saving is not None:
                raise ValueError("the video is being saved already; wait until that is done")
            if self._journal is None or self._position < 0:
                raise ValueError("there is no frame to save yet")
            count, options = self._position + 1, self.run.request.options
            redo = tuple(pair for pair in options.redo if pair[0] < count)
            prompts = tuple(prompt for prompt in self.run.track.prompts if prompt[0] < count)
            now = dataclasses.replace(options, redo=redo)
            take = Take(self._journal, count, prompts, now, self._folder, self._repeat)
            self._saving, self._saved = save_take(self.pipeline, take), {"done": 0, "of": count}

    def shown(self, index: int, take: int) -> None:
        """Note that a frame is shown. Frames of an earlier take do not count."""
        with self._change():
            if take != self._take or not self._position < index <= self._made:
                return
            self._position = index
            while self._pictures and self._pictures[0].index < index:
                self._pictures.popleft()

    def pictures_after(self, number: int) -> list[Picture]:
        """The pictures after this one that are not shown yet, and the one that is shown."""
        with self._changed:
            return [picture for picture in self._pictures if picture.number > number]

    def prompts(self) -> list[tuple[int, str]]:
        """The last prompts with the frames that they begin at."""
        return self.run.track.prompts[-SHOWN_PROMPTS:]

    def status(self) -> dict[str, Any]:
        """What a page shows beside pictures and prompts."""
        with self._changed:
            rate, options = self.pace.rate, self.run.request.options
            return {
                "made": self.made,
                "take": self._take,
                "shown": self._position,
                "rate": None if rate is None else round(rate, 1),
                "keeps_up": self.pace.keeps_up,
                "paused": self._paused,
                "ended": self.ended,
                "failed": None if self.failure is None else _one_line(self.failure),
                "text": self.text,
                "waiting": self.run.track.waiting is not None,
                "seed": self.run.steering.seeds[-1] if self._back is not None else seeds_at(options, self._made)[0],
                "redo": [frame for frame, _ in options.redo[-SHOWN_PROMPTS:]],
                "saved": self._saved,
            }

    def _check_going_on(self) -> None:
        if self.failure is not None:
            raise ValueError(f"the video has stopped: {_one_line(self.failure)}")
        if self.ended:
            raise ValueError(f"the video has ended after {self.made} frames; go back (R) to make its end again")

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Holds the lock, and then tells all who wait for a change."""
        with self._changed:
            yield
            self._changed.notify_all()
        self.on_change()

    # The thread

    def _work(self) -> None:
        self._noting(self._make)
        while self._wait(lambda: False):
            pass

    def _noting(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever it is: the page says so, and `failure` has it
            with self._change():
                self.failure = ValueError(error.phrased(WHERE)) if isinstance(error, UserError) else error

    def _make(self) -> None:
        beside = ThreadPoolExecutor(1) if decodes_beside(self.pipeline) else None
        with closing(self.run.frames()) as frames, beside or nullcontext():
            while self.failure is None:
                began = time.perf_counter()
                with torch.inference_mode():
                    frame = next(frames, None)
                if frame is None:
                    return
                if frame.index >= self._begin:
                    self._take_in(frame, time.perf_counter() - began, beside)
                    if not self._wait(self._may_go_on):
                        break
            if self.ended:
                next(frames, None)  # so that the run is known to have come to its end

    def _take_in(self, frame: Frame, seconds: float, beside: ThreadPoolExecutor | None) -> None:
        """Let a frame be shown, unless it was made before a step back that is not taken yet."""
        with self._change():
            if self._back is not None and frame.index != self._back:
                return
            self._back = None
            self._made, take = frame.index, self._take
        if beside is None:
            self._show(frame, take, seconds, beside=False)
        else:
            if self._showing is not None:
                self._showing.result()  # so that not more than one waits
            self._showing = beside.submit(self._noting, partial(self._show, frame, take, seconds, beside=True))
        self._save_for(0 if self.pace.keeps_up else seconds * SAVING_SHARE)

    def _show(self, frame: Frame, take: int, seconds: float, beside: bool) -> None:
        """Decode a frame that was made in some seconds, for the page."""
        began = time.perf_counter()
        data = encoded(self.pipeline.decode(frame).image[0], frame.index)
        own = time.perf_counter() - began
        with self._change():
            if frame.index > self._begin:  # the first one is made in another way, and all is slower then
                self.pace.made(max(seconds, own) if beside else seconds + own)
            if take == self._take:
                self._number += 1
                self._pictures.append(Picture(self._number, take, frame.index, data))

    def _may_go_on(self) -> bool:
        if self._back is not None or self.failure is not None:
            return True
        return not (self._paused or self.ended) and self._made - self._position < self.pace.ahead

    def _wait(self, may_go_on: Callable[[], bool]) -> bool:
        """Save, or wait, until a frame may be made. Returns False if the session is closed."""
        while True:
            with self._changed:
                if self._saving is None:
                    self._changed.wait_for(lambda: self._closed or self._saving is not None or may_go_on())
                if self._saving is None or (not self._closed and may_go_on()):
                    return not self._closed
            self._save_for(0)

    def _save_for(self, seconds: float) -> None:
        """Save frames for some time, at least one."""
        end = time.perf_counter() + seconds
        while self._saving is not None:
            saved = dict(self._saved or {})
            try:
                video, saved["done"] = next(self._saving)
                saved["name"] = str(video)
                going_on = True
            except StopIteration:
                saved["finished"], going_on = True, False
            except (ValueError, OSError, RuntimeError, MemoryError) as error:
                saved["problem"], going_on = _one_line(error), False
            with self._change():
                self._saved = saved
                if not going_on:
                    self._saving = None
            if time.perf_counter() >= end:
                return


def _one_line(error: Exception) -> str:
    known = isinstance(error, ValueError | OSError)
    text = " ".join(str(error).split())[:500]
    return text if known and text else f"{type(error).__name__}: {text}"
