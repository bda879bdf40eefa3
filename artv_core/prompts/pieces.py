"""A schedule's text in pieces: each prompt with the comments and spaces that go with it.

A comment belongs to the prompt that follows it, one at the end of a prompt's line to that prompt; above a blank line,
or a brace, before the first prompt it belongs to the whole.
"""

import json
import re
from contextlib import suppress
from typing import NamedTuple

from .written import WrittenPrompt

COMMENT = re.compile(r"#[^\n]*")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")


class Piece(NamedTuple):
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
        return self.prompt.end_at is not None or is_quoted(self.prompt, self.body)


# What stands between prompts


def split_head(top: str, opening: int) -> tuple[str, str]:
    """What stands before the first prompt: what belongs to the whole, and what to that prompt."""
    if opening >= 0:
        cut = top.find("\n", opening) + 1 or opening + 1
    else:
        cut = max((match.end() for match in _BLANK_LINE.finditer(top)), default=0)
    return top[:cut], top[cut:]


def trail(gap: str) -> str:
    """The comment on the line of the prompt before, with the spaces before it."""
    before, mark, comment = gap.partition("\n")[0].partition("#")
    return before.replace(",", "") + mark + comment if mark else ""


def lead(gap: str) -> str:
    """What stands on lines of its own."""
    return without_commas(gap.partition("\n")[2])


def without_commas(gap: str) -> str:
    """The same without commas, except those in comments."""
    return re.sub(r"(#[^\n]*)|,", lambda match: match[1] or "", gap)


def indentation(lead: str) -> str:
    """The spaces that a prompt's own line begins with."""
    return lead.rpartition("\n")[2]


# Prompts as they were written


def is_quoted(prompt: WrittenPrompt, body: str) -> bool:
    """Whether the text of a prompt stands in quotes."""
    return prompt.timed and body[prompt.text_at[0]] in "\"'"


def is_seconds(time: str) -> bool:
    """Whether a time as it was written is in seconds."""
    return time[-1:].isalpha()


def is_json(text: str) -> bool:
    """Whether other programs may read it as JSON, too."""
    with suppress(ValueError, RecursionError):
        return isinstance(json.loads(text), dict)
    return False


def part(text: str, span: tuple[int, int]) -> str:
    """What stands from one place to another."""
    return text[slice(*span)]


def put(text: str, *changes: tuple[tuple[int, int], str]) -> str:
    """With other text in some places."""
    for (start, stop), new in reversed(changes):
        text = text[:start] + new + text[stop:]
    return text


def moved(prompt: WrittenPrompt) -> WrittenPrompt:
    """With places counted from its own beginning."""

    def moved(span: tuple[int, int] | None) -> tuple[int, int] | None:
        return span and (span[0] - prompt.at, span[1] - prompt.at)

    stop, text_at = prompt.stop - prompt.at, (prompt.text_at[0] - prompt.at, prompt.text_at[1] - prompt.at)
    return prompt._replace(at=0, stop=stop, time_at=moved(prompt.time_at), end_at=moved(prompt.end_at), text_at=text_at)
