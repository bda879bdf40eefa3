"""Changes the text of a prompt schedule. Unchanged prompts keep their characters, comments stay, and changed prompts
keep their style. `grammar` describes the syntax, `pieces` which prompt a comment belongs to.

Times in seconds are written in seconds again, so that they stay correct if the frames per second change.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from .grammar import read_written
from .prompt_schedule import PromptSchedule, PromptScheduleError, PromptSegment
from .style import Style, WantedPrompt
from .written import WrittenSchedule

Reader = Callable[[str], WrittenSchedule]


def rewrite_schedule(
    text: str,
    wanted: Sequence[WantedPrompt],
    end: int | None = None,
    *,
    segment_frames: int,
    fps: float | None = None,
    num_frames: int = 0,
) -> str:
    """Change `text` as little as possible so that it reads as `wanted`. `end` is the end of the last prompt's range, or
    None for no range.

    `wanted` must be a valid schedule: starts ascend from 0, and no text is empty. Spaces around a text do not count.
    Raises PromptScheduleError if `text` cannot be read, and ValueError if `wanted` is not valid.
    """
    read = partial(read_written, segment_frames=segment_frames, fps=fps, num_frames=num_frames, name="text")
    before = read(text)
    wanted = [prompt._replace(text=prompt.text.strip()) for prompt in wanted]
    if not wanted:
        raise ValueError("no prompt is wanted; a schedule needs at least one")
    _check_sources(wanted, len(before.prompts))
    aim = _schedule_of(wanted, end)
    _check_readable(aim, read)
    if aim == before.schedule and [prompt.source for prompt in wanted] == [*range(len(wanted))]:
        return text
    style = Style(before, segment_frames, fps)
    for timed in (False, True):
        if not timed and not style.allows_plain_lines(wanted):
            continue
        changed = style.written(wanted, end, timed)
        if changed is not None and _reads_as(changed, aim, read):
            return _with_line_ends_of(text, changed)
    return _with_line_ends_of(text, "\n".join([*style.comments(), aim.canonical()]))


def _check_sources(wanted: Sequence[WantedPrompt], count: int) -> None:
    sources = [prompt.source for prompt in wanted if prompt.source is not None]
    if len(set(sources)) < len(sources):
        raise ValueError("two wanted prompts have the same source; give one of them no source")
    if sources and not 0 <= min(sources) <= max(sources) < count:
        raise ValueError(f"a wanted prompt has the source {max(sources)}; the text has the prompts 0 to {count - 1}")


def _schedule_of(wanted: Sequence[WantedPrompt], end: int | None) -> PromptSchedule:
    ends = [*(prompt.start for prompt in wanted[1:]), end]
    return PromptSchedule(tuple(PromptSegment(p.start, e, p.text) for p, e in zip(wanted, ends, strict=True)))


def _check_readable(aim: PromptSchedule, read: Reader) -> None:
    """Raises ValueError if the schedule is not valid."""
    try:
        read(aim.canonical())
    except PromptScheduleError as error:
        raise ValueError(error.message) from None


def _reads_as(text: str, aim: PromptSchedule, read: Reader) -> bool:
    with suppress(PromptScheduleError):
        return read(text).schedule == aim
    return False


def _with_line_ends_of(text: str, changed: str) -> str:
    """`changed` with the line ends of `text`, if `text` uses only one kind."""
    ends = set(re.findall(r"\r\n|\r|\n", text))
    return changed.replace("\n", ends.pop()) if len(ends) == 1 else changed
