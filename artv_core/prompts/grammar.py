r"""The syntax of prompt schedules, and its parser. Nothing in the text is evaluated.

Either there is one prompt on each line, and each lasts for `segment_frames` frames:

    a red circle moving right
    a red circle moving up

or each prompt has a time, in any of these forms, which may be mixed:

    "0": "a red circle moving right", "24": "a red circle moving up",
    0: a red circle moving right
    24 = "a red circle moving up"
    [0s-3s: a red circle moving right] [3s-6s: a red circle moving up]

A time is a frame (`24`) or seconds (`1.5s`: the nearest frame). The first prompt starts at frame 0. A range does not
include its end, and the next prompt starts there. A prompt without a range lasts until the next one starts. The last
prompt lasts to the end of the video, even if its range ends earlier.

Braces around the whole text (JSON) are ignored, and so are `#` comments where a prompt could begin. Quoted text, with
either kind of quotes, ends on its line and may use JSON's escapes (any other backslash stays, as in `\(`). Text without
quotes ends at the end of its line or at its bracket. A full-width colon counts as a colon.

A text such as `16; a blue square` is read as words, but the schedule says so (`slips`).

Syntax that other programs evaluate (`pw_a`, expressions in backticks), lists, and times that cannot be read are errors,
so that they do not end up in a prompt.
"""

import math
import re
import string
from bisect import bisect_right
from fractions import Fraction

from .patterns import (
    BETWEEN,
    BRACE,
    BRACKET,
    BYTE_ORDER_MARK,
    DASHED_KEY,
    ESCAPE,
    INVISIBLE,
    KEY,
    LINE,
    LIST,
    QUOTED,
    QUOTED_END,
    RANGE,
    RANGE_BEGIN,
    RANGE_END,
    SECOND_KEY,
    SPACES,
    TIME_PARTS,
    WIDE_TIME,
    unescaped,
)
from .problems import clipped, length_problem, order_problem, shown, text_problem
from .prompt_schedule import PromptSchedule, PromptScheduleError, PromptSegment, ScheduledPrompt
from .slips import find_slips, slip_problem
from .written import WrittenPrompt, WrittenSchedule

MAX_CHARACTERS = 1_000_000
MAX_PROMPTS = 50_000
MAX_FRAME = 10**9
MAX_DIGITS = 20


def parse_prompts(
    text: str, segment_frames: int, name: str = "prompts", fps: float | None = None
) -> list[ScheduledPrompt]:
    """The prompts of a schedule, in order. Raises the errors of `parse_prompt_schedule`."""
    schedule = parse_prompt_schedule(text, segment_frames=segment_frames, fps=fps, name=name)
    return [ScheduledPrompt(segment.start, segment.text) for segment in schedule.segments]


def parse_prompt_schedule(
    text: str, *, segment_frames: int, fps: float | None = None, num_frames: int = 0, name: str = "prompts"
) -> PromptSchedule:
    """Read a schedule in the syntax above. `name` is the name of the text in errors.

    `segment_frames` is the length of each prompt if prompts have no times. `fps`, the video's frames per second, is
    needed for times in seconds. A schedule may not go beyond `num_frames`, the video's length (0: unknown). Raises
    PromptScheduleError, a ValueError, if the text is not a schedule, and ValueError on wrong settings.
    """
    return read_written(text, segment_frames=segment_frames, fps=fps, num_frames=num_frames, name=name).schedule


def read_written(
    text: str, *, segment_frames: int, fps: float | None = None, num_frames: int = 0, name: str = "prompts"
) -> "WrittenSchedule":
    """Like `parse_prompt_schedule`, but also returns the position of each part, so that the text can be changed."""
    _check_settings(segment_frames, fps, num_frames)
    return _Reader(text, segment_frames, fps, num_frames, name).read()


def read_one(text: str, *, segment_frames: int, fps: float | None = None, name: str = "prompts") -> "WrittenPrompt":
    """Read a text with exactly one prompt, which may start at any frame. Raises PromptScheduleError on other text."""
    return _Reader(text, segment_frames, fps, 0, name).read_only_prompt()


def _check_settings(segment_frames: int, fps: float | None, num_frames: int) -> None:
    if segment_frames < 1:
        raise ValueError(f"a segment has {segment_frames} frames; at least 1 is needed")
    if fps is not None and not 0 < fps < math.inf:
        raise ValueError(f"the video has {fps} frames per second; a number above 0 is needed")
    if num_frames < 0:
        raise ValueError(f"the video has {num_frames} frames; accepted are 1 and more, or 0 where that is not known")


class _Reader:
    """Reads the text once, prompt by prompt. `at` is the position of the next character."""

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
            raise self.error(0, 'the schedule contains no prompt; write one on each line, or "0": "text", "24": "text"')
        ends = [*(prompt.start for prompt in self.prompts[1:]), self.prompts[-1].end]
        slips = tuple(find_slips(self.prompts, self.text, self.place))
        schedule = PromptSchedule(tuple(map(self.segment, self.prompts, ends)), slips)
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

    # Positions

    def place(self, at: int) -> tuple[int, int]:
        """Line and column of a character, both from 1."""
        line = bisect_right(self.line_starts, at)
        return line, at - self.line_starts[line - 1] + 1

    def error(self, at: int, message: str) -> PromptScheduleError:
        return PromptScheduleError(self.name, *self.place(at), message)

    def rest(self) -> str:
        """The rest of this line, for a message."""
        rest = self.text[self.at : self.at + 100].split("\n", 1)[0].strip()
        return shown(rest) if rest else "the end of the line"

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Match a pattern at the current position, and move past the match if there is one."""
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return match

    def at_end(self) -> bool:
        """Move to the next prompt. Returns whether the text ends first."""
        self.take(BETWEEN)
        return self.at == len(self.text)

    def check_beginning(self) -> None:
        """Raises PromptScheduleError if the text is a JSON list or has a byte order mark (as in joined files)."""
        mark, first = self.text.find(BYTE_ORDER_MARK), BETWEEN.match(self.text)
        if mark >= 0:
            raise self.error(mark, "got a byte order mark (U+FEFF), which is invisible; delete it")
        at = first.end() if first else 0
        if LIST.match(self.text, at):
            raise self.error(
                at,
                'got a list; accepted are prompts without brackets, one on each line, or {"0": "text", "24": "text"}',
            )

    def blank_braces(self) -> None:
        """Replace the braces around a JSON object by spaces, so that positions in the text stay the same."""
        opening = BRACE.match(self.text)
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
        if RANGE_BEGIN.match(self.text, at):
            return self.read_range(at)
        if key := self.take(KEY):
            return self.read_keyed(at, key)
        text, start = self.read_line(), len(self.prompts) * self.segment_frames
        return WrittenPrompt(start, None, text, at, at + len(text), None, None, (at, at + len(text)))

    def foreign_key(self) -> str | None:
        """What is wrong with a time in a form that would be read as a prompt's text, or None."""
        if INVISIBLE.match(self.text, self.at):
            return f"got U+{ord(self.text[self.at]):04X}, which is invisible, before the prompt; delete it"
        if DASHED_KEY.match(self.text, self.at):
            return f"got {self.rest()}; a prompt begins with its time, without the mark before it"
        if WIDE_TIME.match(self.text, self.at):
            return f"got {self.rest()}; accepted are times in the digits 0 to 9, and the brackets [ and ]"
        return None

    def read_keyed(self, at: int, key: re.Match[str]) -> WrittenPrompt:
        """A prompt after `"24":`, `24:` or `24 =`."""
        if (key["mark"] or '"') not in "\"'":
            raise self.error(at, f"got the quotation mark {key['mark']}; accepted are the straight ones, \" and '")
        start, text_at = self.frame(key["bare"] or key["quoted"].strip(), at), self.at
        if self.is_quoted():
            text, stop = self.read_quoted(), self.at
            self.expect(QUOTED_END, "a comma or a new line after the closing quote")
        elif key["mark"]:
            raise self.error(self.at, f'got {self.rest()}; accepted is a prompt in quotes, as in "{start}": "text"')
        else:
            text = self.read_line()
            stop = text_at + len(text)
        time_at = key.span("bare" if key["bare"] else "quoted")
        return WrittenPrompt(start, None, text, at, stop, time_at, None, (text_at, stop))

    def read_range(self, at: int) -> WrittenPrompt:
        """`[0s-3s: text]`, `[0-24: text]`, or `[24-: text]` without an end."""
        times = self.take(RANGE)
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
        self.expect(RANGE_END, "] after the closing quote")
        end_at = times.span("end") if times["end"] else (times.end("dash"), times.end("dash"))
        return WrittenPrompt(start, end, text, at, self.at, times.span("start"), end_at, (text_at, text_end))

    def is_quoted(self) -> bool:
        return self.text.startswith(('"', "'"), self.at)

    def read_quoted(self) -> str:
        quoted = self.take(QUOTED)
        if quoted is None:
            mark = self.text[self.at]
            raise self.error(self.at, f"this quote is not closed on its line; put {mark} after the prompt")
        return ESCAPE.sub(unescaped, quoted[0][1:-1]).strip()

    def read_bracketed(self, opening: int) -> str:
        """Text up to the bracket that closes the one at `opening`. Brackets inside must be paired or escaped with a
        backslash."""
        depth = 1
        for mark in BRACKET.finditer(self.text, self.at):
            if mark[0] == "\n":
                break
            depth += {"[": 1, "]": -1}.get(mark[0], 0)
            if depth == 0:
                text, self.at = self.text[self.at : mark.start()], mark.start()
                return re.sub(r"\\([\[\]])", r"\1", text).strip()
        raise self.error(opening, "this bracket is not closed on its line; put ] after the prompt")

    def read_line(self) -> str:
        start, line = self.at, self.take(LINE)
        text = line[0] if line else ""
        if second := SECOND_KEY.search(text):
            at, key = start + second.start("key"), second["key"]
            raise self.error(
                at, f"got {clipped(key)} on another prompt's line; give it a line, or put both prompts in quotes"
            )
        return text.strip()

    def expect(self, pattern: re.Pattern[str], accepted: str) -> None:
        """Move past spaces and past `pattern`, which must follow. Raises PromptScheduleError if it does not."""
        self.take(SPACES)
        if not self.take(pattern):
            raise self.error(self.at, f"got {self.rest()}; accepted is {accepted}")

    def frame(self, time: str, at: int) -> int:
        """The frame of a time. `at` is its position, for errors."""
        parts = TIME_PARTS.fullmatch(time)
        if parts is None:
            raise self.error(at, f"got {shown(time)} as a time; accepted are a frame (24) and seconds (3s, 1.5s)")
        short = len(parts["number"]) <= MAX_DIGITS
        number = Fraction(parts["number"]) if short else Fraction(MAX_FRAME + 1)
        if parts["seconds"]:
            if self.fps is None:
                raise self.error(
                    at, f"got {clipped(time)}, but the frames per second are not known here; name a frame instead"
                )
            number = Fraction(math.floor(number * Fraction(str(self.fps)) + Fraction(1, 2)))
        if number > MAX_FRAME:
            raise self.error(at, f"got {shown(time)}, which is beyond the last frame that is accepted, {MAX_FRAME}")
        if number.denominator != 1:
            raise self.error(at, f"got {time} as a frame; accepted are whole numbers, and seconds as in {time}s")
        return int(number)

    def check(self, prompt: WrittenPrompt) -> None:
        """Raises PromptScheduleError if the prompt's text, its order after earlier prompts or its length is wrong."""
        before = self.prompts[-1] if self.prompts else None
        problem = text_problem(prompt) or slip_problem(before, prompt) or order_problem(before, prompt)
        if problem := problem or length_problem(prompt, self.num_frames):
            raise self.error(prompt.at, problem)
