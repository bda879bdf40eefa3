"""Steers a video while it is made: new prompts, pause, stop, and steps back to take another way. Not in the paper.

A prompt schedule and a list of seeds say what was done (`SteeredRun.schedule`, `SteeredRun.redo`); they make the same
frames again. If the run has a journal, they are saved in a file beside it, so that whoever steered an interrupted run
can go on with it.
"""

import json
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files.partial_file import replacing
from ..method.frames import Frame
from ..method.generate import VideoRequest, generate_frames
from ..method.options import MAX_SEED, GenerateOptions, check_redo
from ..method.text_track import FOREVER, TextTrack
from ..models.artv import ARTV
from .finite_frames import finite_only
from .journal import Journal
from .journal_file import JournalReader
from .journal_folder import newest_first, sidecar_path
from .recording import FrameDigests, Recording, record_frames, tensor_digest
from .steered_track import SteeredTrack, checked_prompt, kept_prompt

MAX_SIDECAR_BYTES = 10_000_000
PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class Back:
    """A step back: make the frames from `frame` on again, with this seed, or with the seed that they had."""

    frame: int
    seed: int | None


class Steering:
    """The controls of one run. All methods can be called from any thread; they take effect between two frames."""

    def __init__(self, track: SteeredTrack, seeds: Sequence[int] = (0,), first: int = 1, videos: int = 1) -> None:
        """`seeds` are those that the run begins with, one or more. `first` is the first frame that can be made again, 1
        or more. `videos` are made at once: video b has the seed + b. None of the run's frames have been made."""
        self.track, self.videos = track, videos
        self.seeds = list(seeds)
        """The seeds of all frames, also of dropped ones. The last one was taken last."""
        self.first = max(1, first)
        """The first frame that can be made again."""
        self._count = 0
        self._changed = threading.Condition()
        self._paused = self._stopped = False
        self._back: Back | None = None
        self.paused_seconds = 0.0
        """How long the run has been paused, all pauses together."""
        self._after_back: str | None = None  # what is said once that step is taken
        self.no_way_back = ""
        """Why no frame can be dropped; "" if it can."""
        self.while_paused: Callable[[], None] = lambda: None
        """Called ten times a second while the run is paused; what it raises ends the run."""

    @property
    def paused(self) -> bool:
        """Whether no further frame is begun."""
        return self._paused

    @property
    def stopped(self) -> bool:
        """Whether the video ends with the frame that is being made."""
        return self._stopped

    def say(self, text: str) -> None:
        """As `SteeredTrack.say`. After `back`, the text is for the first frame that is made again."""
        with self._changed:
            if self._back is None or not self.track.can_say:
                self.track.say(text)  # of a track to which nothing can be said, this raises
            else:
                self._after_back = checked_prompt(text)

    def pause(self) -> None:
        """Begin no further frame."""
        self._set(paused=True)

    def go_on(self) -> None:
        """Go on after `pause`."""
        self._set(paused=False)

    def stop(self) -> None:
        """End the video with the frame that is being made."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def back(self, frames: int, seed: int | None = None, text: str | None = None) -> int:
        """Drop the last `frames` frames and make others, with another seed, another text, or both. With neither, the
        seed is `next_seed`. What was said for the dropped frames is forgotten. Returns the first frame that is made
        again.

        Raises ValueError if there are not that many frames, or as `SteeredTrack.say`.
        """
        after = None if text is None else checked_prompt(text)
        if self.no_way_back:
            raise ValueError(f"cannot go back: {self.no_way_back}")
        with self._changed:
            most = self._count - self.first
            if frames < 1 or frames > most:
                has = f"accepted are 1 to {most}" if most > 0 else "none can be dropped yet; wait for the next one"
                stay = "frame 0 stays" if self.first == 1 else f"frames 0 to {self.first - 1} stay"
                raise ValueError(f"cannot go back {frames} frames: {has} ({stay})")
            if seed is not None and not 0 <= seed <= self._last_seed:
                raise ValueError(f"the seed is {seed}; accepted are 0 to {self._last_seed}")
            if after is not None and not self.track.can_say:
                self.track.say(after)  # raises
            if seed is None and after is None:
                seed = self.next_seed()
            self.seeds += [] if seed is None else [seed]
            self._back, self._after_back = Back(self._count - frames, seed), after
            self.track.unsay()  # it was meant for a frame that is dropped
            self._changed.notify_all()
            return self._back.frame

    def next_seed(self) -> int:
        """The next number after the last seed that gives every video a seed that no frame of this run has had."""
        seed = self.seeds[-1]
        while any(abs(seed - used) < self.videos for used in self.seeds):
            seed = seed + 1 if seed < self._last_seed else 0
        return seed

    @property
    def _last_seed(self) -> int:
        """The largest seed of the first video with which the last video's is still a seed."""
        return MAX_SEED + 1 - self.videos

    def back_to(self, frame: int, seed: int | None = None, text: str | None = None) -> int:
        """As `back`, with the first frame that is made again instead of the number of frames to drop."""
        with self._changed:  # so that no frame is added between counting and dropping
            return self.back(self._count - frame, seed, text)

    def frame_made(self, count: int) -> None:
        """Called with the number of frames so far, before the last of them is shown."""
        with self._changed:
            self._count = count

    def between_frames(self) -> Back | None:
        """Called before a frame is made. Waits while the run is paused. Returns a step back that was asked for, or
        None."""
        with self._changed:
            began = time.monotonic()
            while self._paused and not self._stopped and self._back is None:
                self._changed.wait(PAUSE_SECONDS)
                self.while_paused()
            self.paused_seconds += time.monotonic() - began
            back, self._back = self._back, None
            if back is None or self._stopped:
                return None
            self._count = back.frame
            self.track.take_back(back.frame)
            if self._after_back is not None:
                self.track.say(self._after_back)
            return back

    def _set(self, paused: bool) -> None:
        with self._changed:
            self._paused = paused
            self._changed.notify_all()


class SteeredRun:
    """One steered video. `request.text` must be a `SteeredTrack`."""

    def __init__(
        self,
        model: ARTV,
        request: VideoRequest,
        recording: Recording | None = None,
        given: Sequence[Tensor] = (),
        owner: str | None = None,
    ) -> None:
        """`given` are as in `record_frames`. `owner` stands for the one who steers: an interrupted run is gone on with
        only for the same owner. None: one person alone uses the folder of journals.

        Raises ValueError if each prompt has an anchor of its own, because a prompt that is said later would have none.
        With a `FixedTrack`, to which nothing can be said, such anchors are accepted."""
        assert isinstance(request.text, SteeredTrack)
        if request.anchor.by_segment and request.text.can_say:
            raise ValueError("a video with one anchor for each prompt cannot be steered; give one anchor for all")
        self.model, self.request, self.recording, self.given = model, request, recording, list(given)
        self.owner = owner
        self.always_kept = False
        """Whether a run that was not steered is kept beside its journal too."""
        self.words_in_schedule = False
        """Whether the owner's schedule takes what is said. A run that is asked for without it is then not to have
        it."""
        self.track = request.text
        self.steering = Steering(self.track, _seeds(request.options), len(self.given), request.options.batch_size)
        self.track.on_change = self._keep
        self._first_seed, self._first_redo = request.options.seed, request.options.redo
        self._first_texts = [[segment.start, tensor_digest(segment.context)] for segment in self.track.segments]
        self._journal: Path | None = None

    @property
    def redo(self) -> tuple[tuple[int, int], ...]:
        """`GenerateOptions.redo` that makes the same frames again."""
        return self.request.options.redo

    @property
    def was_steered(self) -> bool:
        """Whether the frames are other ones than those that the run was asked for, or fewer."""
        return bool(self.track.said) or self.redo != self._first_redo or self.steering.stopped

    def final_request(self) -> VideoRequest:
        """What makes the same frames again without steering."""
        return replace(self.request, text=TextTrack(self.track.segments))

    def frames(self) -> Generator[Frame, None, None]:
        """All frames of the video, as `record_frames`. After a step back the frames from there on come again, so an
        index may be smaller than the one before it."""
        self._restore()
        kept: list[Tensor] = []  # only without a journal
        start = 0
        while True:
            back = None
            with closing(self._recorded(kept)) as frames:
                for frame in frames:
                    if frame.index < start:
                        continue  # it is there already; the journal gives all
                    if self.recording is None and not self.steering.no_way_back:
                        kept.append(frame.latent.cpu())  # not on the device, where memory would grow with the video
                    self.steering.frame_made(frame.index + 1)
                    yield frame
                    back = self.steering.between_frames()
                    if back is not None or self.steering.stopped:
                        break
            if back is None:
                self._keep(finished=self.steering.stopped or not self._has_further_frames())
                return
            start = back.frame
            del kept[start:]
            self._take(back)

    def _recorded(self, kept: list[Tensor]) -> Generator[Frame, None, None]:
        recording = self.recording
        if recording is None and kept:
            return finite_only(generate_frames(self.model, self.request, kept))
        if recording is None:
            return record_frames(self.model, self.request, None, self.given)
        told = recording.on_open

        def opened(journal: Journal) -> None:
            self._journal = journal.path
            self._keep()
            if told is not None:
                told(journal)

        return record_frames(self.model, self.request, replace(recording, on_open=opened), self.given)

    def _take(self, back: Back) -> None:
        options = self.request.options
        if back.seed is not None:
            redo = *(pair for pair in options.redo if pair[0] < back.frame), (back.frame, back.seed)
            self.request = replace(self.request, options=replace(options, redo=redo))
        if self.recording is not None:  # the journal that is wanted now is the one with these seeds
            self.recording = replace(self.recording, start_over=False)
        self.track.begin_again(back.frame)

    # What is kept beside the journal

    def _keep(self, finished: bool = False) -> None:
        """Write what was said and taken beside the journal, before the first frame that depends on it is made."""
        if self._journal is None or not (self.always_kept or self.was_steered or self._is_kept(self._journal)):
            return
        done = {
            "owner": self.owner,
            "begun_with": self._begun_with(),
            "said": self.track.said,
            "redo": self.redo,
            "num_frames": self.request.options.num_frames,
            "finished": finished,
        }
        with replacing(sidecar_path(self._journal)) as path:
            path.write_text(json.dumps(done, ensure_ascii=False), encoding="utf-8")

    def _is_kept(self, journal: Path) -> bool:
        """Whether something of the same owner is kept beside the journal."""
        done = kept_beside(journal)
        return done is not None and done.owner == self.owner

    def _has_further_frames(self) -> bool:
        """Whether the journal is of a longer run, which has not come to its end with this one."""
        if self._journal is None:
            return False
        with JournalReader(self._journal) as reader:
            return reader.num_records > self.request.options.num_frames

    def _begun_with(self) -> list[Any]:
        """What the run was asked for, apart from what `FrameDigests.common` covers, as JSON gives it back."""
        redo = [list(pair) for pair in self._first_redo]
        return [self._first_texts, self._first_seed, redo]

    def _restore(self) -> None:
        """Take over what was said and taken in the owner's newest interrupted run that was begun as this one."""
        if self.recording is None or self.recording.start_over:
            return
        inputs = FrameDigests(self.model, self.request, self.given, self.recording.weights)
        for path in newest_first(self.recording.folder):
            done = kept_beside(path, inputs.common)
            if done is not None and (done.owner, done.begun_with) == (self.owner, self._begun_with()):
                if not (done.finished or (done.said and self.words_in_schedule)):
                    self.track.restore(done.said)
                    self.request = replace(self.request, options=replace(self.request.options, redo=done.redo))
                    self.steering.seeds = _seeds(self.request.options)
                return


@dataclass(frozen=True)
class Kept:
    """What is kept beside a journal. `owner` is that of the `SteeredRun`, None in older files. `num_frames` is the
    length that the run was asked for last, 0 for no end, None in older files. A run that has not `finished` can go
    on."""

    owner: str | None
    begun_with: list[Any]
    said: tuple[tuple[int, str], ...]
    redo: tuple[tuple[int, int], ...]
    num_frames: int | None
    finished: bool


def kept_beside(journal: Path, common: str | None = None) -> Kept | None:
    """What is kept beside a journal of a run with these shared inputs (None: any); None if there is nothing that can be
    used."""
    path = sidecar_path(journal)
    with suppress(ValueError, OSError, TypeError, KeyError, RecursionError):
        if not path.is_file() or path.stat().st_size > MAX_SIDECAR_BYTES:
            return None
        with JournalReader(journal) as reader:
            if common not in (None, reader.header.run):
                return None
        found = json.loads(path.read_text(encoding="utf-8"))
        said = tuple((_whole(frame, FOREVER - 1), _prompt(text)) for frame, text in found["said"])
        redo = tuple((_whole(frame, FOREVER - 1), _whole(seed, MAX_SEED)) for frame, seed in found["redo"])
        check_redo(redo)
        num_frames = _whole(found["num_frames"], FOREVER) if "num_frames" in found else None
        owner = None if found.get("owner") is None else str(found["owner"])
        return Kept(owner, list(found["begun_with"]), said, redo, num_frames, bool(found["finished"]))
    return None


def _whole(number: Any, most: int) -> int:
    """Raises ValueError if it is not a whole number from 0 to `most`."""
    if type(number) is not int or not 0 <= number <= most:
        raise ValueError
    return number


def _prompt(text: Any) -> str:
    """Raises ValueError if it is not a prompt that could be said, in this version or an earlier one."""
    if not isinstance(text, str):
        raise ValueError
    return kept_prompt(text)


def _seeds(options: GenerateOptions) -> list[int]:
    return [options.seed, *(seed for _, seed in options.redo)]
