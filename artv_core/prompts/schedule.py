"""Which prompt holds at which frame: schedules as values, their text, and how prompts fade into one another."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

from ..method.text_track import PromptSpan


class ScheduleError(ValueError):
    """A schedule that cannot be read: `message` is one sentence; `line` and `column` say where, both counted from 1,
    columns in characters (code points)."""

    def __init__(self, name: str, line: int, column: int, message: str):
        super().__init__(f"{name}, line {line}, column {column}: {message}")
        self.line, self.column, self.message = line, column, message


class ScheduledPrompt(NamedTuple):
    """From frame `start` (absolute) to the next prompt, the text is `text`."""

    start: int
    text: str


@dataclass(frozen=True)
class PromptSegment:
    """From frame `start` to `end` (left out; None: to the end of the video) the prompt is `text`. It was written at
    `line` and `column`, which are not compared."""

    start: int
    end: int | None
    text: str
    line: int = field(default=1, compare=False)
    column: int = field(default=1, compare=False)


@dataclass(frozen=True)
class PromptSchedule:
    """Segments from frame 0 on, each ending where the next starts. The last one's end is None unless it was written
    down; its prompt holds after it too."""

    segments: tuple[PromptSegment, ...]

    def surrounded(self, pre_text: str = "", app_text: str = "") -> "PromptSchedule":
        """The same schedule with text put before and after every prompt."""
        return replace(
            self, segments=tuple(replace(s, text=_joined(pre_text, s.text, app_text)) for s in self.segments)
        )

    def spans(self, blend_frames: int = 0) -> list[PromptSpan]:
        """Where each prompt counts, as `blended_spans`."""
        return blended_spans([segment.start for segment in self.segments], blend_frames)

    def canonical(self) -> str:
        """The schedule as text, one prompt a line, from which `parse_schedule` reads an equal one."""
        *before, last = self.segments
        lines = [_written(segment.start, None, segment.text) for segment in before]
        return ",\n".join([*lines, _written(last.start, last.end, last.text)])


def blended_spans(starts: Sequence[int], blend_frames: int = 0) -> list[PromptSpan]:
    """Where each of the prompts that start at `starts` (ascending) counts, when one fades linearly into the next.

    The fade begins with the later prompt's first frame: of its n frames, the i-th (from 0) has (i + 1) / (n + 1) of the
    later prompt. So no frame before a change depends on what comes after it, and the anchor changes where the fade
    begins. A prompt too short for the fade gets a faster one, and its last frame for itself. Raises ValueError on a
    negative number of frames.
    """
    if blend_frames < 0:
        raise ValueError(f"the number of blend frames is {blend_frames}; accepted are 0 (no blend) and more")
    lengths = [later - earlier for earlier, later in pairwise(starts)]
    fades = [0, *(min(blend_frames, length - 1) for length in lengths[1:]), blend_frames][: len(starts)]
    ends = [start + fade for start, fade in zip(starts[1:], fades[1:], strict=True)]
    return [PromptSpan(*span) for span in zip(starts, [*ends, None], fades, [*fades[1:], 0], strict=True)]


def _joined(*parts: str) -> str:
    """The parts that are not empty, with a space between them except before punctuation."""
    joined = ""
    for part in filter(None, map(str.strip, parts)):
        joined += part if not joined or part[0] in ",.;:!?" else f" {part}"
    return joined


def _written(start: int, end: int | None, text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    return f'"{start}": {quoted}' if end is None else f"[{start}-{end}: {quoted}]"
