"""Change a prompt schedule as text: what was not changed keeps its characters, comments stay, each prompt its style.

The syntax, and what a text means, is that of `grammar`.

A comment belongs to the prompt that follows it, one at the end of a prompt's line to that prompt; above a blank line,
or a brace, before the first prompt it belongs to the whole. Times in seconds are written in seconds again, so that they
keep their meaning where the frames per second change.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from .grammar import read_written
from .schedule import PromptSchedule, PromptSegment, ScheduleError
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
    """`text` changed as little as it takes to read as `wanted`; the last prompt ends at frame `end` if that is written.

    What is wanted is a schedule like any other: starts ascend from 0, no text is empty. Spaces round a text do not
    count. Raises ScheduleError where `text` cannot be read, ValueError, one line, where `wanted` cannot be.
    """
    read = partial(read_written, segment_frames=segment_frames, fps=fps, num_frames=num_frames, name="text")
    before = read(text)
    wanted = [prompt._replace(text=prompt.text.strip()) for prompt in wanted]
    if not wanted:
        raise ValueError("no prompt is wanted; a schedule holds at least one")
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
        raise ValueError("two wanted prompts have one source; the second is a new prompt, without a source")
    if sources and not 0 <= min(sources) <= max(sources) < count:
        raise ValueError(f"a wanted prompt has the source {max(sources)}; the text has the prompts 0 to {count - 1}")


def _schedule_of(wanted: Sequence[WantedPrompt], end: int | None) -> PromptSchedule:
    ends = [*(prompt.start for prompt in wanted[1:]), end]
    return PromptSchedule(tuple(PromptSegment(p.start, e, p.text) for p, e in zip(wanted, ends, strict=True)))


def _check_readable(aim: PromptSchedule, read: Reader) -> None:
    """Raises ValueError unless it can be written at all."""
    try:
        read(aim.canonical())
    except ScheduleError as error:
        raise ValueError(error.message) from None


def _reads_as(text: str, aim: PromptSchedule, read: Reader) -> bool:
    with suppress(ScheduleError):
        return read(text).schedule == aim
    return False


def _with_line_ends_of(text: str, changed: str) -> str:
    """With the line ends that `text` has, where it has one kind."""
    ends = set(re.findall(r"\r\n|\r|\n", text))
    return changed.replace("\n", ends.pop()) if len(ends) == 1 else changed
