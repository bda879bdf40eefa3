"""Prompts and schedules with how they were written: where in the text each part stands."""

from typing import NamedTuple

from .schedule import PromptSchedule


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
