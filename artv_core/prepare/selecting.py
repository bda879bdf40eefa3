"""Step 3: decides which clips are kept, by all scores together. For every dropped clip it writes a line that says
why."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any

import numpy as np

from ..data.decode import count_frames
from ..data.sources import Entry
from .options import PrepareOptions
from .scoring import ScoreStore

REASONS = (
    "no caption",
    "broken",
    "too short",
    "cut",
    "too little motion",
    "too much motion",
    "caption does not fit",
    "not among the best",
)
"""The reasons why a clip is dropped, in the order in which they are checked."""

NO_SCORE = float("nan")


@dataclass
class Columns:
    """Columns for the clips that are kept, or may be: the entry, seconds from the entry's start (`end` NaN: the entry's
    own end, because it is the whole entry), length in seconds and in frames at the target rate, size, scores (NaN:
    none)."""

    entry: array = field(default_factory=lambda: array("q"))
    start: array = field(default_factory=lambda: array("d"))
    end: array = field(default_factory=lambda: array("d"))
    seconds: array = field(default_factory=lambda: array("d"))
    frames: array = field(default_factory=lambda: array("q"))
    height: array = field(default_factory=lambda: array("q"))
    width: array = field(default_factory=lambda: array("q"))
    motion: array = field(default_factory=lambda: array("d"))
    clip: array = field(default_factory=lambda: array("d"))

    def append(self, **values: float) -> None:
        """Add a clip."""
        for name, column in vars(self).items():
            column.append(values[name])


@dataclass
class Selection:
    """`clips` are the candidates, `kept` the positions of those that stay, ascending; `counts` says how many were
    dropped for each reason. `motions`, `clip_scores` and `durations` are of all clips that could be read, for the
    report."""

    clips: Columns
    kept: np.ndarray
    counts: Counter[str]
    motions: np.ndarray
    clip_scores: np.ndarray
    durations: np.ndarray
    threshold: float | None

    @property
    def considered(self) -> int:
        """Number of clips, kept and dropped."""
        return len(self.kept) + self.counts.total()


def select(
    options: PrepareOptions,
    fps: float,
    entries: Sequence[Entry],
    problems: Sequence[str],
    keys: np.ndarray,
    store: ScoreStore,
    dropped: IO[str],
) -> Selection:
    """Choose the clips. Each clip that is not kept becomes a line of `dropped`."""
    chooser = _Chooser(options, fps, dropped)
    for problem in problems:
        name, _, detail = problem.partition(": ")
        chooser.drop(name, "no caption" if "caption" in detail else "broken", detail)
    for number, (entry, record) in enumerate(zip(entries, store.records(keys), strict=True)):
        for part in _parts(record, options.shots):
            chooser.consider(number, entry, part)
    kept, threshold = chooser.best(entries)
    return Selection(
        clips=chooser.clips,
        kept=kept,
        counts=chooser.counts,
        motions=np.array(chooser.motions),
        clip_scores=np.array(chooser.clip_scores),
        durations=np.array(chooser.durations),
        threshold=threshold,
    )


def clip_entry(clips: Columns, entries: Sequence[Entry], clip: int) -> Entry:
    """The entry to read for candidate `clip`: a whole entry, or one of its shots."""
    entry = entries[clips.entry[clip]]
    return _shot(entry, clips.start[clip], clips.end[clip])


def drop_line(dropped: IO[str], name: str, reason: str, detail: str) -> None:
    """Write the line of a clip that is not kept."""
    dropped.write(json.dumps({"name": name, "reason": reason, "detail": detail}) + "\n")


class _Chooser:
    def __init__(self, options: PrepareOptions, fps: float, dropped: IO[str]) -> None:
        self.options, self.fps, self.dropped = options, fps, dropped
        self.counts: Counter[str] = Counter()
        self.clips = Columns()
        self.motions, self.clip_scores, self.durations = array("f"), array("f"), array("f")

    def drop(self, name: str, reason: str, detail: str) -> None:
        self.counts[reason] += 1
        drop_line(self.dropped, name, reason, detail)

    def consider(self, number: int, entry: Entry, part: dict[str, Any]) -> None:
        """Add a candidate, unless its own scores already say that it is dropped."""
        if "broken" in part:
            self.drop(entry.name, "broken", part["broken"])
            return
        clip = NO_SCORE if part["clip"] is None else part["clip"]
        seconds = part["seconds"]
        self.motions.append(part["motion"])
        self.clip_scores.append(clip)
        self.durations.append(seconds)
        frames = count_frames(seconds, self.fps)
        found = self._fault(part, frames, clip)
        if found is not None:
            self.drop(_shot(entry, part["start"], part["end"]).name, *found)
            return
        self.clips.append(
            entry=number,
            start=part["start"],
            end=part["end"],
            seconds=seconds,
            frames=frames,
            height=part["height"],
            width=part["width"],
            motion=part["motion"],
            clip=clip,
        )

    def best(self, entries: Sequence[Entry]) -> tuple[np.ndarray, float | None]:
        """Positions of the best candidates, and the lowest CLIP score among them if their number is limited."""
        count, top = len(self.clips.entry), self.options.top
        everyone = np.arange(count)
        if top is None or count <= top:
            return everyone, self.options.min_clip_score
        scores = np.array(self.clips.clip)
        order = np.argsort(-scores, kind="stable")
        threshold = float(scores[order[top - 1]])
        for clip in np.sort(order[top:]).tolist():
            name = clip_entry(self.clips, entries, clip).name
            self.drop(name, "not among the best", f"CLIP score {scores[clip]:.4f}; the best {top} have {threshold:.4f}")
        return np.sort(order[:top]), threshold

    def _fault(self, part: dict[str, Any], frames: int, clip: float) -> tuple[str, str] | None:
        options, motion = self.options, part["motion"]
        low, high = options.motion_range
        if frames < options.min_frames:
            return "too short", f"{frames} frames at {self.fps:g} per second; kept are {options.min_frames}"
        if options.shots == "drop" and part["cuts"]:
            return "cut", f"{len(part['cuts'])}, the first at {part['cuts'][0]:.2f} s"
        if not low <= motion <= high:
            reason = "too little motion" if motion < low else "too much motion"
            return reason, f"motion score {motion:.3f}; kept are {low:g} to {high:g}"
        if options.min_clip_score is not None and not clip >= options.min_clip_score:
            return "caption does not fit", f"CLIP score {clip:.4f}; kept are {options.min_clip_score:g} and above"
        return None


def _parts(record: dict[str, Any], shots: str) -> Iterator[dict[str, Any]]:
    """The clips that an entry consists of: itself, or each of its shots."""
    if "broken" in record:
        yield record
        return
    size = {"height": record["height"], "width": record["width"]}
    if shots == "split" and len(record["shots"]) > 1:
        for start, end, motion, clip in record["shots"]:
            yield {
                **size,
                "start": start,
                "end": end,
                "seconds": end - start,
                "motion": motion,
                "clip": clip,
                "cuts": [],
            }
        return
    cuts = [start for start, *_ in record["shots"][1:]]
    whole = {"start": 0.0, "end": NO_SCORE, "seconds": record["duration"], "cuts": cuts}
    yield {**size, **whole, "motion": record["motion"], "clip": record["clip"]}


def _shot(entry: Entry, start: float, end: float) -> Entry:
    """The part of an entry between these seconds from its start; the whole entry if `end` is NaN."""
    return entry if end != end else replace(entry, start=round(entry.start + start, 6), end=round(entry.start + end, 6))
