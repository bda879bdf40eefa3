"""Which prompt applies to which frame: prompt schedules as values, as text, and with fades between prompts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

from ..method.text_track import PromptSpan


class PromptScheduleError(ValueError):
    """A schedule that cannot be read. `message` is one sentence. `line` and `column` say where, both counted from 1,
    columns in characters (code points)."""

    def __init__(self, name: str, line: int, column: int, message: str):
        super().__init__(f"{name}, line {line}, column {column}: {message}")
        self.line, self.column, self.message = line, column, message


class ScheduledPrompt(NamedTuple):
    """A prompt `text` that applies from frame `start` (absolute) until the next prompt starts."""

    start: int
    text: str


@dataclass(frozen=True)
class PromptSegment:
    """A prompt `text` for the frames from `start` up to but not including `end` (None: to the end of the video). `line`
    and `column` say where it was written; they do not matter for equality."""

    start: int
    end: int | None
    text: str
    line: int = field(default=1, compare=False)
    column: int = field(default=1, compare=False)


class Slip(NamedTuple):
    """Words that look like a time, such as `16; a blue square`. `line` and `column` (from 1) say where, `got` is the
    text from there on, `time` the time, `meant` how it is written. `begins`: at the beginning of a prompt."""

    line: int
    column: int
    got: str
    time: str
    meant: str
    begins: bool

    @property
    def advice(self) -> str:
        """How the text is read, and how to write what was probably meant."""
        where = "" if self.begins else " on a line of its own"
        return f"{self.got!r} is read as words; to start a prompt at {self.time}, write {self.meant!r}{where}"


@dataclass(frozen=True)
class PromptSchedule:
    """Segments from frame 0 on. Each ends where the next starts. The last one's end is None unless it was written; its
    prompt also applies after it. `slips` are places where words look like a time; they do not matter for equality."""

    segments: tuple[PromptSegment, ...]
    slips: tuple[Slip, ...] = field(default=(), compare=False)

    def surrounded(self, pre_text: str = "", app_text: str = "") -> "PromptSchedule":
        """The same schedule with text added before and after every prompt."""
        return replace(
            self, segments=tuple(replace(s, text=surrounded(s.text, pre_text, app_text)) for s in self.segments)
        )

    def spans(self, blend_frames: int = 0) -> list[PromptSpan]:
        """The frames in which each prompt counts; see `blended_spans`."""
        return blended_spans([segment.start for segment in self.segments], blend_frames)

    def warning(self) -> str | None:
        """One line about the first place where words look like a time, or None."""
        if not self.slips:
            return None
        first, more = self.slips[0], len(self.slips) - 1
        others = f" (and {more} more such {'places' if more > 1 else 'place'})" if more else ""
        return f"line {first.line}, column {first.column}: {first.advice}{others}"

    def canonical(self) -> str:
        """The schedule as text with one prompt on each line. `parse_prompt_schedule` reads it as an equal schedule."""
        *before, last = self.segments
        lines = [_written(segment.start, None, segment.text) for segment in before]
        return ",\n".join([*lines, _written(last.start, last.end, last.text)])


def blended_spans(starts: Sequence[int], blend_frames: int = 0) -> list[PromptSpan]:
    """The frames in which each of the prompts that start at `starts` (ascending) counts, if each fades linearly into
    the next.

    The fade begins at the first frame of the later prompt. In the i-th of its n frames (from 0), the later prompt has
    the share (i + 1) / (n + 1). So frames before a change do not depend on the next prompt, and the anchor changes
    where the fade begins. If a prompt is too short for the fade, its fade is shorter, and its last frame has only this
    prompt. Raises ValueError on a negative number of frames.
    """
    if blend_frames < 0:
        raise ValueError(f"the number of blend frames is {blend_frames}; accepted are 0 (no blend) and more")
    lengths = [later - earlier for earlier, later in pairwise(starts)]
    fades = [0, *(min(blend_frames, length - 1) for length in lengths[1:]), blend_frames][: len(starts)]
    ends = [start + fade for start, fade in zip(starts[1:], fades[1:], strict=True)]
    return [PromptSpan(*span) for span in zip(starts, [*ends, None], fades, [*fades[1:], 0], strict=True)]


def surrounded(text: str, pre_text: str = "", app_text: str = "") -> str:
    """A prompt with text before and after it: the parts that are not empty, with a space between them except before
    punctuation."""
    joined = ""
    for part in filter(None, map(str.strip, (pre_text, text, app_text))):
        joined += part if not joined or part[0] in ",.;:!?" else f" {part}"
    return joined


def _written(start: int, end: int | None, text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    return f'"{start}": {quoted}' if end is None else f"[{start}-{end}: {quoted}]"
