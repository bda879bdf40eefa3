r"""Prompt schedules: which text holds at which frame. Text in, a `PromptSchedule` out, and back; nothing is evaluated.

Prompts either follow one another, one a line, a segment's length each:

    a red circle moving right
    a red circle moving up

or each names its time, in any of these forms, which may be mixed:

    "0": "a red circle moving right", "24": "a red circle moving up",
    0: a red circle moving right
    24 = "a red circle moving up"
    [0s-3s: a red circle moving right] [3s-6s: a red circle moving up]

A time is a frame (`24`) or seconds (`1.5s`: the nearest frame). The first prompt starts at frame 0. A range leaves its
end out, and the next prompt starts there; any other prompt holds until the next. The last one holds to the end of the
video, whatever its range. Braces round it all (JSON) are passed over, and so are `#` comments where a prompt could
begin. Text in quotes, of either kind, ends on its line and knows JSON's escapes (any other backslash stays, as in
`\(`); text without quotes goes on to the end of its line or to its bracket. A full-width colon is a colon.

What other programs would compute (`pw_a`, expressions in backticks), lists, and times that cannot be read are errors,
so that they do not end up in a prompt.
"""

import json
import math
import re
import string
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

MAX_FILE_BYTES = 1_000_000
MAX_CHARACTERS = 1_000_000
MAX_PROMPTS = 50_000
MAX_FRAME = 10**9
MAX_DIGITS = 20


# What comes out


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


class PromptSpan(NamedTuple):
    """The frames where a prompt counts: from `start` to `end`, which is left out (None: for ever). Its weight rises
    through the first `fade_in` of them and falls through the last `fade_out`."""

    start: int = 0
    end: int | None = None
    fade_in: int = 0
    fade_out: int = 0

    def weight(self, frame: int) -> float:
        """From 0 (not there) to 1. The weights of two spans that fade into one another add up to 1."""
        if frame < self.start or (self.end is not None and frame >= self.end):
            return 0.0
        rise = min(1.0, (frame - self.start + 1) / (self.fade_in + 1))
        fall = 1.0 if self.end is None else min(1.0, (self.end - frame) / (self.fade_out + 1))
        return rise * fall


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


# What goes in


def read_prompt_file(path: str | Path, segment_frames: int, fps: float | None = None) -> list[ScheduledPrompt]:
    """The prompts of a file, as `parse_prompts`. Raises ValueError, one line, where it cannot be read besides."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot read prompt file {path}: {(error.strerror or str(error)).lower()}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"prompt file {path} is larger than {MAX_FILE_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"prompt file {path} is not UTF-8 text") from None
    return parse_prompts(text, segment_frames, str(path), fps)


def parse_prompts(
    text: str, segment_frames: int, name: str = "prompts", fps: float | None = None
) -> list[ScheduledPrompt]:
    """The prompts of a schedule, in order. Raises ValueError as `parse_schedule`."""
    schedule = parse_schedule(text, segment_frames=segment_frames, fps=fps, name=name)
    return [ScheduledPrompt(segment.start, segment.text) for segment in schedule.segments]


def parse_schedule(
    text: str, *, segment_frames: int, fps: float | None = None, num_frames: int = 0, name: str = "prompts"
) -> PromptSchedule:
    """Read a schedule in the syntax above. `name` says in errors whose text it is.

    `segment_frames` is how long each prompt lasts where none names its time; seconds need `fps`, the video's frames
    per second; a schedule may not go beyond `num_frames`, the video's length (0: not known). Raises ScheduleError, a
    ValueError, on text that is no schedule, and ValueError on settings that cannot be.
    """
    return read_written(text, segment_frames=segment_frames, fps=fps, num_frames=num_frames, name=name).schedule


def read_written(
    text: str, *, segment_frames: int, fps: float | None = None, num_frames: int = 0, name: str = "prompts"
) -> "WrittenSchedule":
    """As `parse_schedule`, with where everything stands, for those who change the text."""
    _check_settings(segment_frames, fps, num_frames)
    return _Reader(text, segment_frames, fps, num_frames, name).read()


def read_one(text: str, *, segment_frames: int, fps: float | None = None, name: str = "prompts") -> "WrittenPrompt":
    """The only prompt of a text, whenever it starts. Raises ScheduleError on anything else."""
    return _Reader(text, segment_frames, fps, 0, name).read_only_prompt()


def _check_settings(segment_frames: int, fps: float | None, num_frames: int) -> None:
    if segment_frames < 1:
        raise ValueError(f"a segment has {segment_frames} frames; at least 1 is needed")
    if fps is not None and not 0 < fps < math.inf:
        raise ValueError(f"the video has {fps} frames per second; a number above 0 is needed")
    if num_frames < 0:
        raise ValueError(f"the video has {num_frames} frames; accepted are 1 and more, or 0 where that is not known")


# Quantifiers are possessive (`*+`): no text makes matching slow. `_SPACE` does not leave the line.
_SPACE = r"[^\S\n]*+"
_TIME = r"[-+]?[0-9][0-9.]*+[A-Za-z]*+"
_COLONS = ":\uff1a"  # the second one is full-width, as Chinese and Japanese keyboards write it
_MARKS = "\"'\u2018\u2019\u201c\u201d"

_SPACES = re.compile(_SPACE)
_BETWEEN = re.compile(r"(?:[\s,]|#[^\n]*+)*+")
_KEY = re.compile(
    rf"(?:(?P<mark>[{_MARKS}])(?P<quoted>[^\n{_MARKS}]{{0,100}})[{_MARKS}]|(?P<bare>{_TIME})){_SPACE}[{_COLONS}=]{_SPACE}"
)
_BRACE = re.compile(rf"{_BETWEEN.pattern}\{{(?=\s*+(?:\}}|{_KEY.pattern}))")
_RANGE_BEGIN = re.compile(rf"\[{_SPACE}[-+]?[0-9]")
_RANGE = re.compile(
    rf"\[{_SPACE}(?P<start>{_TIME}){_SPACE}(?P<dash>[-\u2013\u2014]){_SPACE}(?P<end>{_TIME})?+{_SPACE}[{_COLONS}]{_SPACE}"
)
_RANGE_END = re.compile(r"\]")
_BRACKET = re.compile(r"\\.|[\[\]\n]")
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*+"' + "|" + r"'(?:[^'\\\n]|\\.)*+'")
_QUOTED_END = re.compile(r"(?=[,#\n]|\Z)")
_LINE = re.compile(r"[^\n]*+")
_SECOND_KEY = re.compile(rf"[,\uff0c]{_SPACE}(?P<key>[\"']?[0-9]++s?[\"']?){_SPACE}(?:[:=](?=[\s\"'])|\uff1a)")
_TIME_PARTS = re.compile(r"(?P<number>[0-9]++(?:\.[0-9]++)?+)(?P<seconds>[sS])?+")
_NEGATIVE = re.compile(r"(?<!\S)--neg")
_EXPRESSION = re.compile(r"`[^`]*+`|(?<!\w)pw_[a-d](?!\w)")
_BYTE_ORDER_MARK = "\ufeff"
_INVISIBLE = re.compile(rf"[\u200b-\u200f\u202a-\u202e\u2060-\u2069]++(?:{_KEY.pattern}|{_RANGE_BEGIN.pattern}|\{{)")
_LIST = re.compile(
    rf"\[\s*+(?:(?:{_QUOTED.pattern})\s*+(?:,|(?:\]\s*+)?,?\s*+\Z)|\{{\s*+[\"']|[\[(]\s*+[\"'0-9]|\]\s*+\Z)"
)
_DASHED_KEY = re.compile(rf"[-*\u2022][^\S\n]++{_KEY.pattern}")
_WIDE_TIME = re.compile(
    rf"(?:[\uff3b\u3010]{_SPACE}[\"']?\d[\d.]*+|\[?{_SPACE}[\"']?[0-9.]*+(?![0-9])\d[\d.]*+)"
    rf"[sS]?{_SPACE}[\"']?{_SPACE}[{_COLONS}=\uff1d\-\u2013\u2014\uff0d]"
)
_ESCAPE = re.compile(r"(?P<units>(?:\\u[0-9a-fA-F]{4})++)|\\(?P<character>[\"'\\/bfnrt])")
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class WrittenPrompt(NamedTuple):
    """A prompt as it was written: the end of its range if it has one, and whether it names its time.

    It stands from character `at` to `stop` (left out). Within that, pairs of the same kind say where its parts stand:
    its time (None: it names none), the end of its range (None: it is no range; empty: a range without end), and its
    text with its quotes.
    """

    start: int
    end: int | None
    text: str
    at: int
    stop: int
    time_at: tuple[int, int] | None
    end_at: tuple[int, int] | None
    text_at: tuple[int, int]

    @property
    def timed(self) -> bool:
        """Whether it names its time."""
        return self.time_at is not None


class WrittenSchedule(NamedTuple):
    """A schedule and how it was written. Places count characters of `text`, whose lines end in a newline each.
    `braces` are the places of those round it all, if there are any."""

    schedule: PromptSchedule
    text: str
    prompts: tuple[WrittenPrompt, ...]
    braces: tuple[int, int] | None


class _Reader:
    """Goes through the text once, from prompt to prompt; `at` is the next character."""

    def __init__(self, text: str, segment_frames: int, fps: float | None, num_frames: int, name: str):
        self.text = text.replace("\r\n", "\n").replace("\r", "\n")
        self.segment_frames = segment_frames
        self.fps = fps
        self.num_frames = num_frames
        self.name = name
        self.at = 0
        self.line_starts = [0, *(match.end() for match in re.finditer("\n", self.text))]
        self.prompts: list[WrittenPrompt] = []
        self.braces: tuple[int, int] | None = None

    def read(self) -> WrittenSchedule:
        if len(self.text) > MAX_CHARACTERS:
            raise self.error(0, f"the schedule has {len(self.text)} characters; accepted are up to {MAX_CHARACTERS}")
        text = self.text
        self.check_beginning()
        self.blank_braces()
        while not self.at_end():
            prompt = self.read_prompt()
            self.check(prompt)
            self.prompts.append(prompt)
            if len(self.prompts) > MAX_PROMPTS:
                raise self.error(prompt.at, f"this is one prompt more than the {MAX_PROMPTS} that are accepted")
        if not self.prompts:
            raise self.error(0, 'the schedule holds no prompt; write one on each line, or "0": "text", "24": "text"')
        ends = [*(prompt.start for prompt in self.prompts[1:]), self.prompts[-1].end]
        schedule = PromptSchedule(tuple(map(self.segment, self.prompts, ends)))
        return WrittenSchedule(schedule, text, tuple(self.prompts), self.braces)

    def read_only_prompt(self) -> WrittenPrompt:
        if self.at_end():
            raise self.error(0, "there is no prompt")
        prompt = self.read_prompt()
        if not self.at_end():
            raise self.error(self.at, f"got {self.rest()} after the prompt")
        return prompt

    def segment(self, prompt: WrittenPrompt, end: int | None) -> PromptSegment:
        return PromptSegment(prompt.start, end, prompt.text, *self.place(prompt.at))

    # Where things are

    def place(self, at: int) -> tuple[int, int]:
        """Line and column of a character."""
        line = bisect_right(self.line_starts, at)
        return line, at - self.line_starts[line - 1] + 1

    def error(self, at: int, message: str) -> ScheduleError:
        return ScheduleError(self.name, *self.place(at), message)

    def rest(self) -> str:
        """What follows on this line, for a message."""
        rest = self.text[self.at : self.at + 100].split("\n", 1)[0].strip()
        return _shown(rest) if rest else "the end of the line"

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Go past what matches here, if anything does."""
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return match

    def at_end(self) -> bool:
        """Go on to the next prompt; whether there is none."""
        self.take(_BETWEEN)
        return self.at == len(self.text)

    def check_beginning(self) -> None:
        """Raises where the text is something else than a schedule: a JSON list, or files put together."""
        mark, first = self.text.find(_BYTE_ORDER_MARK), _BETWEEN.match(self.text)
        if mark >= 0:
            raise self.error(mark, "got a byte order mark (U+FEFF), which is invisible; delete it")
        at = first.end() if first else 0
        if _LIST.match(self.text, at):
            raise self.error(
                at,
                'got a list; accepted are prompts without brackets, one on each line, or {"0": "text", "24": "text"}',
            )

    def blank_braces(self) -> None:
        """Put spaces for the braces round a JSON object, so that all else keeps its place."""
        opening = _BRACE.match(self.text)
        if opening is None:
            return
        first, body = opening.end() - 1, self.text.rstrip(f"{string.whitespace},")
        if not body.endswith("}"):
            raise self.error(first, "the schedule begins with { but does not end with }; write both or neither")
        self.braces = first, len(body) - 1
        self.text = f"{self.text[:first]} {self.text[first + 1 : len(body) - 1]} "

    # One prompt

    def read_prompt(self) -> WrittenPrompt:
        at = self.at
        if problem := self.foreign_key():
            raise self.error(at, problem)
        if _RANGE_BEGIN.match(self.text, at):
            return self.read_range(at)
        if key := self.take(_KEY):
            return self.read_keyed(at, key)
        text, start = self.read_line(), len(self.prompts) * self.segment_frames
        return WrittenPrompt(start, None, text, at, at + len(text), None, None, (at, at + len(text)))

    def foreign_key(self) -> str | None:
        """What is wrong with a time that is written so that it would be read as a prompt."""
        if _INVISIBLE.match(self.text, self.at):
            return f"got U+{ord(self.text[self.at]):04X}, which is invisible, before the prompt; delete it"
        if _DASHED_KEY.match(self.text, self.at):
            return f"got {self.rest()}; a prompt begins with its time, without the mark before it"
        if _WIDE_TIME.match(self.text, self.at):
            return f"got {self.rest()}; accepted are times in the digits 0 to 9, and the brackets [ and ]"
        return None

    def read_keyed(self, at: int, key: re.Match[str]) -> WrittenPrompt:
        """A prompt after `"24":`, `24:` or `24 =`."""
        if (key["mark"] or '"') not in "\"'":
            raise self.error(at, f"got the quotation mark {key['mark']}; accepted are the straight ones, \" and '")
        start, text_at = self.frame(key["bare"] or key["quoted"].strip(), at), self.at
        if self.is_quoted():
            text, stop = self.read_quoted(), self.at
            self.expect(_QUOTED_END, "a comma or a new line after the closing quote")
        elif key["mark"]:
            raise self.error(self.at, f'got {self.rest()}; accepted is a prompt in quotes, as in "{start}": "text"')
        else:
            text = self.read_line()
            stop = text_at + len(text)
        time_at = key.span("bare" if key["bare"] else "quoted")
        return WrittenPrompt(start, None, text, at, stop, time_at, None, (text_at, stop))

    def read_range(self, at: int) -> WrittenPrompt:
        """`[0s-3s: text]`, `[0-24: text]`, or `[24-: text]` for all the rest."""
        times = self.take(_RANGE)
        if times is None:
            raise self.error(at, f"got {self.rest()}; a range is written [0s-3s: text] or [0-24: text]")
        start, end = self.frame(times["start"], times.start("start")), None
        if times["end"]:
            end = self.frame(times["end"], times.start("end"))
            if start and times["start"][-1:].isalpha() != times["end"][-1:].isalpha():
                raise self.error(at, f"got {times['start']} to {times['end']}; accepted are two frames or two seconds")
            if end <= start:
                raise self.error(at, f"the range starts at frame {start} and ends at frame {end}; it must end later")
        text_at = self.at
        text = self.read_quoted() if self.is_quoted() else self.read_bracketed(at)
        text_end = self.at
        self.expect(_RANGE_END, "] after the closing quote")
        end_at = times.span("end") if times["end"] else (times.end("dash"), times.end("dash"))
        return WrittenPrompt(start, end, text, at, self.at, times.span("start"), end_at, (text_at, text_end))

    def is_quoted(self) -> bool:
        return self.text.startswith(('"', "'"), self.at)

    def read_quoted(self) -> str:
        quoted = self.take(_QUOTED)
        if quoted is None:
            mark = self.text[self.at]
            raise self.error(self.at, f"this quote is not closed on its line; put {mark} after the prompt")
        return _ESCAPE.sub(_unescaped, quoted[0][1:-1]).strip()

    def read_bracketed(self, opening: int) -> str:
        """Text up to the bracket that closes the one at `opening`; brackets in it are in pairs or after a backslash."""
        depth = 1
        for mark in _BRACKET.finditer(self.text, self.at):
            if mark[0] == "\n":
                break
            depth += {"[": 1, "]": -1}.get(mark[0], 0)
            if depth == 0:
                text, self.at = self.text[self.at : mark.start()], mark.start()
                return re.sub(r"\\([\[\]])", r"\1", text).strip()
        raise self.error(opening, "this bracket is not closed on its line; put ] after the prompt")

    def read_line(self) -> str:
        start, line = self.at, self.take(_LINE)
        text = line[0] if line else ""
        if second := _SECOND_KEY.search(text):
            at, key = start + second.start("key"), second["key"]
            raise self.error(
                at, f"got {_clipped(key)} on another prompt's line; give it a line, or put both prompts in quotes"
            )
        return text.strip()

    def expect(self, pattern: re.Pattern[str], accepted: str) -> None:
        """Go past spaces and what must follow them."""
        self.take(_SPACES)
        if not self.take(pattern):
            raise self.error(self.at, f"got {self.rest()}; accepted is {accepted}")

    def frame(self, time: str, at: int) -> int:
        """The frame of a time that is written at `at`."""
        parts = _TIME_PARTS.fullmatch(time)
        if parts is None:
            raise self.error(at, f"got {_shown(time)} as a time; accepted are a frame (24) and seconds (3s, 1.5s)")
        short = len(parts["number"]) <= MAX_DIGITS
        number = Fraction(parts["number"]) if short else Fraction(MAX_FRAME + 1)
        if parts["seconds"]:
            if self.fps is None:
                raise self.error(
                    at, f"got {_clipped(time)}, but the frames per second are not known here; name a frame instead"
                )
            number = Fraction(math.floor(number * Fraction(str(self.fps)) + Fraction(1, 2)))
        if number > MAX_FRAME:
            raise self.error(at, f"got {_shown(time)}, which is beyond the last frame that is accepted, {MAX_FRAME}")
        if number.denominator != 1:
            raise self.error(at, f"got {time} as a frame; accepted are whole numbers, and seconds as in {time}s")
        return int(number)

    def check(self, prompt: WrittenPrompt) -> None:
        """Raises ScheduleError unless it is a prompt, follows those before it and lies within the video."""
        before = self.prompts[-1] if self.prompts else None
        problem = _text_problem(prompt) or _order_problem(before, prompt) or _length_problem(prompt, self.num_frames)
        if problem:
            raise self.error(prompt.at, problem)


def _text_problem(prompt: WrittenPrompt) -> str | None:
    if not prompt.text:
        return f"the prompt of frame {prompt.start} is empty; say what is to be seen"
    if _NEGATIVE.search(prompt.text):
        return "got --neg, which prompts do not know; the negative prompt is an input of its own, for all frames"
    if expression := _EXPRESSION.search(prompt.text):
        return f"got {_shown(expression[0])}, but nothing is computed in prompts; write a number, as in (fox:1.2)"
    return None


def _order_problem(before: WrittenPrompt | None, prompt: WrittenPrompt) -> str | None:
    start = prompt.start
    if before is None:
        return None if start == 0 else f"the first prompt starts at frame {start}; it must start at frame 0"
    if before.timed != prompt.timed:
        return 'either all prompts name their time, as in "24": "text", 24: text or [1s-2s: text], or none does'
    if start <= before.start:
        return f"frame {start} does not come after frame {before.start} of the prompt before; starts must ascend"
    if before.end is not None and start < before.end:
        return f"frame {start} is still in the range before, {before.start}-{before.end}; ranges must not overlap"
    if before.end is not None and start > before.end:
        return f"frames {before.end} to {start - 1} have no prompt; the range before must end where this one starts"
    return None


def _length_problem(prompt: WrittenPrompt, num_frames: int) -> str | None:
    if num_frames and prompt.start >= num_frames:
        return f"the prompt starts at frame {prompt.start}, but the video ends with frame {num_frames - 1}"
    if num_frames and (prompt.end or 0) > num_frames:
        return f"the range ends at frame {prompt.end}, but the video has {num_frames} frames; {num_frames} is the limit"
    return None


def _shown(text: str) -> str:
    """The beginning of a text, for a message."""
    return repr(_clipped(text))


def _clipped(text: str) -> str:
    return text if len(text) <= 20 else f"{text[:20]}..."


def _unescaped(match: re.Match[str]) -> str:
    if match["units"]:
        return bytes.fromhex(match["units"].replace("\\u", "")).decode("utf-16-be", "replace")
    return _ESCAPED.get(match["character"], match["character"])
