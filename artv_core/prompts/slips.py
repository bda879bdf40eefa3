"""Texts that are read as prompts but were probably meant as times: `16; a blue square`. The
user is warned of them; they are not refused."""

import re
from collections.abc import Callable, Iterable, Iterator

from .problems import clipped, shown
from .prompt_schedule import Slip
from .written import WrittenPrompt

_SPACE = r"[^\S\n]*+"
_TIME = r"(?P<time>[0-9]++(?:\.[0-9]++)?+[sS]?+)(?![0-9A-Za-z_])"
# Dashes, dots and commas count only before a space, so that "16-bit colours" and "2,5" are words.
_MARK = rf"(?:{_SPACE}(?:->|=>|[;\uff1b)\uff09>|\u3001\u3002])|{_SPACE}[-\u2013\u2014.,\uff0c](?=\s))"
_WORD = r"(?:[^\W\d_]|[\"'\u201c\u2018(])"
_KEY = re.compile(
    rf"(?:[Ff]rames?+{_SPACE}{_TIME}{_SPACE}[:\uff1a=]|(?:[Ff]rames?+{_SPACE})?+{_TIME.replace('time', 'bare')}{_MARK})"
    rf"{_SPACE}(?={_WORD})"
)
_SECOND = re.compile(rf"[;\uff1b|]{_SPACE}{_TIME}{_SPACE}[:\uff1a=](?=[^\S\n]|[\"'])")

Place = Callable[[int], tuple[int, int]]
"""The line and the column of a position in a text, both from 1."""


def find_slips(prompts: Iterable[WrittenPrompt], text: str, place: Place) -> Iterator[Slip]:
    """All slips in the prompts of the schedule `text`. What is in quotes or in a range was meant as it stands."""
    for prompt in prompts:
        if prompt.end_at is not None or (prompt.timed and text[prompt.text_at[0]] in "\"'"):
            continue
        if not prompt.timed and (key := _KEY.match(prompt.text)):
            yield _slip(prompt.text, key, place(prompt.at), begins=True)
        if second := _SECOND.search(prompt.text):
            yield _slip(prompt.text, second, place(prompt.text_at[0] + second.start()), begins=False)


def _slip(text: str, match: re.Match[str], place: tuple[int, int], begins: bool) -> Slip:
    time = _time(match)
    meant = f"{time}: {text[match.end() :].strip()}"
    return Slip(*place, clipped(text[match.start() :]), time, clipped(meant), begins)


def _time(match: re.Match[str]) -> str:
    return match["time"] or match["bare"] if match.re is _KEY else match["time"]


def slip_problem(before: WrittenPrompt | None, prompt: WrittenPrompt) -> str | None:
    """What is wrong with a prompt that has a slip where prompts with times need a time, or None."""
    if before is None or not before.timed or prompt.timed or not (key := _KEY.match(prompt.text)):
        return None
    return f"got {shown(prompt.text)}; after its time a prompt has a colon, as in {_time(key)}: text"
