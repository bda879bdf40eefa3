"""A schedule's text in pieces: each prompt with its comments and spaces.

A comment at the end of a prompt's line belongs to this prompt. Any other comment belongs to the next prompt, except
before the first prompt: there, a comment above a blank line or a brace belongs to the whole schedule.
"""

import json
import re
from contextlib import suppress
from typing import NamedTuple

from .written import WrittenPrompt

COMMENT = re.compile(r"#[^\n]*")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")


class Piece(NamedTuple):
    """A prompt as text. `lead` has the comments above it and its indentation, `trail` the comment on its line. `source`
    is the prompt's index in the old text."""

    source: int | None
    prompt: WrittenPrompt
    body: str
    lead: str = ""
    trail: str = ""

    @property
    def is_closed(self) -> bool:
        """Whether another prompt may follow on the same line."""
        return self.prompt.end_at is not None or is_quoted(self.prompt, self.body)


# Text between prompts


def split_head(top: str, opening: int) -> tuple[str, str]:
    """Split the text before the first prompt: the part of the whole schedule, and the part of this prompt. `opening` is
    the position of the opening brace, or -1."""
    if opening >= 0:
        cut = top.find("\n", opening) + 1 or opening + 1
    else:
        cut = max((match.end() for match in _BLANK_LINE.finditer(top)), default=0)
    return top[:cut], top[cut:]


def trail(gap: str) -> str:
    """The comment on the same line as the previous prompt, with the spaces before it."""
    before, mark, comment = gap.partition("\n")[0].partition("#")
    return before.replace(",", "") + mark + comment if mark else ""


def lead(gap: str) -> str:
    """The part of a gap after the previous prompt's line, without commas."""
    return without_commas(gap.partition("\n")[2])


def without_commas(gap: str) -> str:
    """Remove commas, except inside comments."""
    return re.sub(r"(#[^\n]*)|,", lambda match: match[1] or "", gap)


def indentation(lead: str) -> str:
    """The spaces at the beginning of a prompt's line."""
    return lead.rpartition("\n")[2]


# Prompts as they were written


def is_quoted(prompt: WrittenPrompt, body: str) -> bool:
    """Whether the text of a prompt is in quotes."""
    return prompt.timed and body[prompt.text_at[0]] in "\"'"


def is_seconds(time: str) -> bool:
    """Whether a written time is in seconds."""
    return time[-1:].isalpha()


def is_json(text: str) -> bool:
    """Whether the text is a JSON object."""
    with suppress(ValueError, RecursionError):
        return isinstance(json.loads(text), dict)
    return False


def part(text: str, span: tuple[int, int]) -> str:
    """The characters of `text` in a span."""
    return text[slice(*span)]


def put(text: str, *changes: tuple[tuple[int, int], str]) -> str:
    """Replace spans of `text` by other text. The spans must be in ascending order."""
    for (start, stop), new in reversed(changes):
        text = text[:start] + new + text[stop:]
    return text


def moved(prompt: WrittenPrompt) -> WrittenPrompt:
    """The prompt with positions relative to its own beginning."""

    def moved(span: tuple[int, int] | None) -> tuple[int, int] | None:
        return span and (span[0] - prompt.at, span[1] - prompt.at)

    stop, text_at = prompt.stop - prompt.at, (prompt.text_at[0] - prompt.at, prompt.text_at[1] - prompt.at)
    return prompt._replace(at=0, stop=stop, time_at=moved(prompt.time_at), end_at=moved(prompt.end_at), text_at=text_at)
