"""Prompts and schedules with the positions of their parts in the text."""

from typing import NamedTuple

from .prompt_schedule import PromptSchedule


class WrittenPrompt(NamedTuple):
    """A prompt as it was written. `end` is the end of its range, or None.

    It takes the characters from `at` up to but not including `stop`. The pairs (start, stop) give the positions of its
    parts: `time_at` its time (None: it has none), `end_at` the end of its range (None: not a range; empty: a range
    without an end), and `text_at` its text with quotes.
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
        """Whether the prompt has a time."""
        return self.time_at is not None


class WrittenSchedule(NamedTuple):
    """A schedule and how it was written. Positions count the characters of `text`, in which line ends are newlines.
    `braces` are the positions of the braces around everything, if there are any."""

    schedule: PromptSchedule
    text: str
    prompts: tuple[WrittenPrompt, ...]
    braces: tuple[int, int] | None
