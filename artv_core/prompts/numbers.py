"""Numbers that change from frame to frame, written in the syntax of prompt schedules. Not in the paper."""

import re

from .grammar import parse_prompt_schedule
from .prompt_schedule import PromptScheduleError

_NUMBER = re.compile(r"\d+([.,]\d*)?|[.,]\d+", re.ASCII)
_WHOLE = re.compile(r"\d+", re.ASCII)


def whole_numbers_by_frame(text: str, name: str) -> tuple[tuple[int, int], ...]:
    """(first frame, number) pairs, ascending from frame 0, from lines such as `24: 60`. Raises ValueError if the text,
    which errors call `name`, is not a schedule of whole numbers, 0 or more."""
    return tuple((start, int(word)) for start, word in _words(text, name, _WHOLE, "a whole number", "20"))


def numbers_by_frame(text: str, name: str) -> tuple[tuple[int, float], ...]:
    """(first frame, number) pairs, ascending from frame 0, from lines such as `24: 7.5`. Raises ValueError if the text,
    which errors call `name`, is not a schedule of numbers, 0 or more."""
    words = _words(text, name, _NUMBER, "a number", "7.5")
    return tuple((start, float(word.replace(",", "."))) for start, word in words)


def numbers_by_prompt(text: str) -> tuple[float, ...] | None:
    """The numbers of a text that has one on each line and names no frames, else None."""
    lines = list(filter(None, map(str.strip, text.splitlines())))
    if not lines or not all(map(_NUMBER.fullmatch, lines)):
        return None
    return tuple(float(line.replace(",", ".")) for line in lines)


def _words(text: str, name: str, pattern: re.Pattern[str], kind: str, example: str) -> list[tuple[int, str]]:
    try:
        segments = parse_prompt_schedule(text, segment_frames=1, name=name).segments
    except PromptScheduleError as error:
        where = f"{name}, line {error.line}, column {error.column}"
        form = f"a frame and {kind} on each line, ascending from frame 0, as in '0: {example}'"
        raise ValueError(f"{where}: give {form}") from None
    strange = [segment.text for segment in segments if not pattern.fullmatch(segment.text)]
    if strange:
        raise ValueError(
            f"{name} contains {strange[0][:50]!r}; give a frame and {kind} on each line, as in '0: {example}'"
        )
    return [(segment.start, segment.text) for segment in segments]
