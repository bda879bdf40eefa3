"""Change a prompt schedule as text: what was not changed keeps its characters, comments stay, each prompt its style.

For the timeline of the page, which asks `answer_schedule`. The syntax, and what a text means, is that of `prompts`.

A comment belongs to the prompt that follows it, one at the end of a prompt's line to that prompt; above a blank line,
or a brace, before the first prompt it belongs to the whole. Times in seconds are written in seconds again, so that they
keep their meaning where the frames per second change.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from .grammar import (
    MAX_FRAME,
    MAX_PROMPTS,
    PromptSchedule,
    PromptSegment,
    ScheduleError,
    WrittenPrompt,
    WrittenSchedule,
    parse_schedule,
    read_one,
    read_written,
)

MAX_DECIMALS = 6
"""Of seconds that are written."""


class WantedPrompt(NamedTuple):
    """A prompt as it is to be. `source` is the index of the prompt it was before, None for a new one."""

    source: int | None
    start: int
    text: str


Reader = Callable[[str], WrittenSchedule]


# What the page asks


def answer_schedule(question: Mapping[str, Any]) -> dict[str, Any]:
    """Read a schedule for the page; with `wanted`, change its text before.

    Question: `text`, `segment_frames`, `fps`, `num_frames`, `blend_frames`, and perhaps `wanted`: `{prompts: [{source,
    start, text}], end}`. Answer: `text`, `segments` and `spans`; or `text` and `error` where it cannot be read, or
    changed so, whose `line` and `column` are null where a setting or what is wanted is to blame. Raises ValueError, one
    line, on any other question.
    """
    text, settings = _asked(question, "text", str, ""), _settings(question)
    blend_frames = _asked(question, "blend_frames", int, 0)
    wanted = None if question.get("wanted") is None else _wanted(question["wanted"])
    try:
        if wanted is not None:
            text = rewrite_schedule(text, *wanted, **settings)
        schedule = parse_schedule(text, name="text", **settings)
        spans = schedule.spans(blend_frames)
    except ScheduleError as error:
        return {"text": text, "error": {"message": error.message, "line": error.line, "column": error.column}}
    except ValueError as error:
        return {"text": text, "error": {"message": str(error), "line": None, "column": None}}
    segments = [
        dict(zip(("start", "end", "text", "line", "column"), _fields(s), strict=True)) for s in schedule.segments
    ]
    return {"text": text, "segments": segments, "spans": [span._asdict() for span in spans]}


def _fields(segment: PromptSegment) -> tuple[int, int | None, str, int, int]:
    return segment.start, segment.end, segment.text, segment.line, segment.column


def _settings(question: Mapping[str, Any]) -> dict[str, Any]:
    fps = question.get("fps")
    is_number = isinstance(fps, (int, float)) and not isinstance(fps, bool) and 0 <= fps <= MAX_FRAME
    if not (fps is None or is_number):
        raise ValueError(f"fps is {_kind(fps)}; accepted are numbers from 0 to {MAX_FRAME}, and null")
    frames = {
        name: _asked(question, name, int, default) for name, default in (("segment_frames", 1), ("num_frames", 0))
    }
    return {"fps": fps, **frames}


def _wanted(wanted: Any) -> tuple[list[WantedPrompt], int | None]:
    if not isinstance(wanted, dict) or not isinstance(wanted.get("prompts"), list):
        raise ValueError('wanted is not understood; accepted is {"prompts": [...], "end": null or a frame}')
    if len(wanted["prompts"]) > MAX_PROMPTS:
        raise ValueError(f"got {len(wanted['prompts'])} wanted prompts; accepted are up to {MAX_PROMPTS}")
    end = wanted.get("end")
    return [_wanted_prompt(prompt) for prompt in wanted["prompts"]], end if end is None else _frame(end, "end")


def _wanted_prompt(prompt: Any) -> WantedPrompt:
    if not isinstance(prompt, dict):
        raise ValueError(f'a wanted prompt is {_kind(prompt)}; accepted is {{"source", "start", "text"}}')
    source = prompt.get("source")
    source = source if source is None else _frame(source, "source")
    return WantedPrompt(source, _frame(prompt.get("start"), "start"), _asked(prompt, "text", str, None))


def _asked(question: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    """A text or a number of the question, of the right kind and size."""
    value = question.get(name, default)
    if kind is int:
        return _frame(value, name)
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {_kind(value)}; accepted is a text")
    return value


def _frame(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_FRAME:
        raise ValueError(f"{name} is {_kind(value)}; accepted are whole numbers from 0 to {MAX_FRAME}")
    return value


def _kind(value: Any) -> str:
    """A value of the network, for a message."""
    shown = json.dumps(value) if value is None or isinstance(value, (bool, int, float)) else type(value).__name__
    return shown if len(shown) <= 20 else f"{shown[:20]}..."


# What is wanted, as text


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
    style = _Style(before, segment_frames, fps)
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


# How it was written, and is to be


class _Piece(NamedTuple):
    """A prompt as text, with what goes with it: `lead`, the comments above it and its indentation, and `trail`, the
    comment on its line. `source` is its index in the text before."""

    source: int | None
    prompt: WrittenPrompt
    body: str
    lead: str = ""
    trail: str = ""

    @property
    def is_closed(self) -> bool:
        """Whether something may follow on its line."""
        return self.prompt.end_at is not None or _is_quoted(self.prompt, self.body)


class _Style:
    """A text in pieces, from which another is put together."""

    def __init__(self, before: WrittenSchedule, segment_frames: int, fps: float | None):
        self.segment_frames, self.fps = segment_frames, fps
        text, prompts = before.text, before.prompts
        self.opening, closing = before.braces or (-1, len(text))
        self.top, self.tail = text[: prompts[0].at], text[closing:]
        self.gaps = [text[one.stop : other.at] for one, other in pairwise(prompts)]
        self.gaps.append(text[prompts[-1].stop : closing])
        self.head, first_lead = _split_head(self.top, self.opening)
        leads = [_without_commas(first_lead), *map(_lead, self.gaps[:-1])]
        self.pieces = [
            _Piece(source, _moved(prompt), text[prompt.at : prompt.stop], lead, _trail(gap))
            for source, (prompt, lead, gap) in enumerate(zip(prompts, leads, self.gaps, strict=True))
        ]
        lone = len(prompts) == 1
        self.is_multiline = (
            "\n" in self.head if lone and before.braces else lone or any("\n" in g for g in self.gaps[:-1])
        )
        self.has_commas = bool(before.braces) or any("," in _COMMENT.sub("", gap) for gap in self.gaps)
        self.has_commas |= lone and self.pieces[0].body.startswith(('"', "'"))
        self.is_json = _is_json(text)

    def comments(self) -> list[str]:
        """All of them, in order."""
        return [comment for gap in [self.top, *self.gaps] for comment in _COMMENT.findall(gap)]

    def allows_plain_lines(self, wanted: Sequence[WantedPrompt]) -> bool:
        """Whether prompts that name no time can say it, as they did."""
        plain = not self.pieces[0].prompt.timed
        return plain and all(prompt.start == index * self.segment_frames for index, prompt in enumerate(wanted))

    def written(self, wanted: Sequence[WantedPrompt], end: int | None, timed: bool) -> str | None:
        """The whole text, as far as can be told without reading it. None where a prompt cannot be written so."""
        orphans = self.orphaned_comments(wanted)
        ends = [*(prompt.start for prompt in wanted[1:]), None]
        pieces = []
        for prompt, model, following in zip(wanted, self.models(wanted), ends, strict=True):
            body = _Form(model, self, timed).body(prompt, following, end if prompt is wanted[-1] else None)
            if body is None:
                return None
            own = model if prompt.source is not None else model._replace(lead=_indentation(model.lead), trail="")
            lead = (
                "".join(f"{_indentation(own.lead)}{comment}\n" for comment in orphans.get(prompt.source, [])) + own.lead
            )
            pieces.append(_Piece(prompt.source, self.read(body), body, lead, own.trail))
        parts = [self.beginning(pieces[0]), pieces[0].body]
        for before, piece in pairwise(pieces):
            parts += [self.between(before, piece), piece.body]
        return "".join([*parts, self.ending(pieces[-1], orphans.get(len(self.pieces), [])), self.tail])

    def read(self, body: str) -> WrittenPrompt:
        """One prompt by itself."""
        return read_one(body, segment_frames=self.segment_frames, fps=self.fps, name="text")

    def seconds(self, frame: int) -> str | None:
        """A time in seconds, as short as it can be. None where it would take too many digits."""
        if self.fps is None:
            return None
        fps = Fraction(str(self.fps))
        for decimals in range(MAX_DECIMALS + 1):
            number = round(frame / fps, decimals)
            if math.floor(number * fps + Fraction(1, 2)) == frame:
                return f"{float(number):.{decimals}f}s"
        return None

    def models(self, wanted: Sequence[WantedPrompt]) -> Iterator[_Piece]:
        """For each prompt the piece it is written like: its own, for a new one that before it."""
        first = next((prompt.source for prompt in wanted if prompt.source is not None), 0)
        model = self.pieces[first]
        for prompt in wanted:
            model = model if prompt.source is None else self.pieces[prompt.source]
            yield model

    def orphaned_comments(self, wanted: Sequence[WantedPrompt]) -> dict[int | None, list[str]]:
        """Comments of the prompts that are gone, by the index of the next one that stays (their count: the end)."""
        stays = {prompt.source for prompt in wanted}
        orphans: dict[int | None, list[str]] = {}
        gone: list[str] = []
        for piece in self.pieces:
            if piece.source not in stays:
                gone += _COMMENT.findall(piece.lead) + _COMMENT.findall(piece.trail)
            elif gone:
                orphans[piece.source], gone = gone, []
        return {**orphans, len(self.pieces): gone}

    def beginning(self, piece: _Piece) -> str:
        """What stands before the first prompt."""
        if piece.source == 0:
            return self.top
        lead = piece.lead.lstrip("\n")
        if self.opening < 0:
            return self.head + lead
        above = "".join(f"{comment}\n" for comment in _COMMENT.findall(lead))
        lead = _indentation(lead) if self.head.endswith("\n") else ""
        return self.head[: self.opening] + above + self.head[self.opening :] + lead

    def between(self, before: _Piece, piece: _Piece) -> str:
        """What stands between two prompts: what stood there, if they followed one another."""
        if piece.source and before.source == piece.source - 1:
            return self.gaps[before.source]
        on_one_line = not self.is_multiline and before.is_closed and not before.trail and "\n" not in piece.lead
        keyed = before.prompt.end_at is None
        comma = "," if before.is_closed and (self.has_commas or (on_one_line and keyed)) else ""
        return f"{comma} " if on_one_line else f"{comma}{before.trail}\n{piece.lead}"

    def ending(self, last: _Piece, orphans: Sequence[str]) -> str:
        """What stands after the last prompt."""
        gap = self.gaps[-1]
        if last.source == len(self.pieces) - 1:
            return gap
        comma = "," if last.is_closed and "," in gap.partition("\n")[0].partition("#")[0] else ""
        comments = last.trail + "".join(f"\n{comment}" for comment in orphans)
        rest = f"\n{_lead(gap)}" if "\n" in gap or (comments and self.tail) else ""
        return comma + comments + rest


class _Form:
    """How one prompt is written: like `model`."""

    def __init__(self, model: _Piece, style: _Style, timed: bool):
        self.like, self.written = model.prompt, model.body
        self.style, self.timed = style, timed

    def body(self, prompt: WantedPrompt, following: int | None, end: int | None) -> str | None:
        """The first of the ways to write it that reads as it is wanted. `following` is where the next one starts, `end`
        the end that the last one has."""
        for body in self.bodies(prompt, following, end):
            with suppress(ScheduleError):
                read = self.style.read(body)
                starts = not self.timed or read.start == prompt.start
                if read.at == 0 and starts and read.text == prompt.text and read.timed == self.timed:
                    return body
        return None

    def bodies(self, prompt: WantedPrompt, following: int | None, end: int | None) -> Iterator[str]:
        if not self.timed:
            yield prompt.text
            return
        before, after = self.around(prompt.start, following, end)
        yield from (before + text + after for text in self.texts(prompt.text))

    def around(self, start: int, following: int | None, end: int | None) -> tuple[str, str]:
        """What stands before and after the text."""
        like, written = self.like, self.written
        before, after = written[: like.text_at[0]], written[like.text_at[1] :]
        if like.end_at is None and end is not None:
            return f"[{start}-{end}: ", "]"
        if like.time_at is None:
            return f"{start}: ", ""
        if like.end_at is None:
            return _put(before, (like.time_at, self.time(start))), after
        open_end = like.end is None and following is not None
        times = self.times(start, None if open_end else end if following is None else following)
        return _put(before, (like.time_at, times[0]), (like.end_at, times[1])), after

    def time(self, start: int) -> str:
        """The time after its model: the same if it is, else in the same unit."""
        assert self.like.time_at is not None
        token = _part(self.written, self.like.time_at)
        if start == self.like.start:
            return token
        return (self.style.seconds(start) if _is_seconds(token) else None) or str(start)

    def times(self, start: int, end: int | None) -> tuple[str, str]:
        """Both times of a range, in one unit."""
        assert self.like.time_at is not None
        assert self.like.end_at is not None
        tokens = _part(self.written, self.like.time_at), _part(self.written, self.like.end_at)
        if (start, end) == (self.like.start, self.like.end):
            return tokens
        frames = str(start), "" if end is None else str(end)
        if not any(map(_is_seconds, tokens)):
            return frames
        seconds = self.style.seconds(start), "" if end is None else self.style.seconds(end)
        kept = (
            tokens[0] if start == self.like.start and (start == 0 or _is_seconds(tokens[0])) else seconds[0],
            tokens[1] if end == self.like.end and _is_seconds(tokens[1]) else seconds[1],
        )
        return frames if None in kept else (kept[0] or "", kept[1] or "")

    def texts(self, text: str) -> Iterator[str]:
        """Ways to write a text, best first; not all of them are good for any text."""
        written = _part(self.written, self.like.text_at)
        if text == self.like.text and self.like.timed:
            yield written
        mark = written[0] if self.like.timed and _is_quoted(self.like, self.written) else None
        if mark is None:
            yield text
            yield re.sub(r"[\[\]]", r"\\\g<0>", text)
        escaped = json.dumps(text, ensure_ascii=False)
        if mark == "'":
            escaped = "'" + escaped[1:-1].replace('\\"', '"').replace("'", "\\'") + "'"
        plain = (mark or '"') + text.replace(mark or '"', "\\" + (mark or '"')) + (mark or '"')
        yield from (escaped, plain) if self.style.is_json else (plain, escaped)


# Small parts

_COMMENT = re.compile(r"#[^\n]*")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")


def _split_head(top: str, opening: int) -> tuple[str, str]:
    """What stands before the first prompt: what belongs to the whole, and what to that prompt."""
    if opening >= 0:
        cut = top.find("\n", opening) + 1 or opening + 1
    else:
        cut = max((match.end() for match in _BLANK_LINE.finditer(top)), default=0)
    return top[:cut], top[cut:]


def _trail(gap: str) -> str:
    """The comment on the line of the prompt before, with the spaces before it."""
    before, mark, comment = gap.partition("\n")[0].partition("#")
    return before.replace(",", "") + mark + comment if mark else ""


def _lead(gap: str) -> str:
    """What stands on lines of its own."""
    return _without_commas(gap.partition("\n")[2])


def _without_commas(gap: str) -> str:
    return re.sub(r"(#[^\n]*)|,", lambda match: match[1] or "", gap)


def _indentation(lead: str) -> str:
    return lead.rpartition("\n")[2]


def _is_quoted(prompt: WrittenPrompt, body: str) -> bool:
    return prompt.timed and body[prompt.text_at[0]] in "\"'"


def _is_seconds(time: str) -> bool:
    return time[-1:].isalpha()


def _is_json(text: str) -> bool:
    """Whether other programs may read it as JSON, too."""
    with suppress(ValueError, RecursionError):
        return isinstance(json.loads(text), dict)
    return False


def _part(text: str, span: tuple[int, int]) -> str:
    return text[slice(*span)]


def _put(text: str, *changes: tuple[tuple[int, int], str]) -> str:
    """With other text in some places."""
    for (start, stop), new in reversed(changes):
        text = text[:start] + new + text[stop:]
    return text


def _moved(prompt: WrittenPrompt) -> WrittenPrompt:
    """With places counted from its own beginning."""

    def moved(span: tuple[int, int] | None) -> tuple[int, int] | None:
        return span and (span[0] - prompt.at, span[1] - prompt.at)

    stop, text_at = prompt.stop - prompt.at, (prompt.text_at[0] - prompt.at, prompt.text_at[1] - prompt.at)
    return prompt._replace(at=0, stop=stop, time_at=moved(prompt.time_at), end_at=moved(prompt.end_at), text_at=text_at)
