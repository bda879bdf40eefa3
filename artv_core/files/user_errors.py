"""Errors that a user can fix, in words that fit any user interface. Not in the paper.

The core says what is wrong and what the remedy is. The command line and the nodes say where to find the remedy: in an
option, a menu or a node.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any


class Remedy(Enum):
    """What a user can do. The value is the core's own wording."""

    BASE = "name a base checkpoint"
    NO_JOURNAL = "do without a journal"


class UserError(ValueError):
    """An error with a remedy. `found` says what is wrong; `before` (such as "make room, or ") and `after` surround the
    remedy in the message."""

    def __init__(self, found: str, remedy: Remedy, *, before: str = "", after: str = "") -> None:
        self.found, self.remedy, self.before, self.after = found, remedy, before, after
        super().__init__(self.phrased({}))

    def __reduce__(self) -> tuple[Any, ...]:
        """So that a worker process can hand the error to the one that waits for it."""
        return _again, (self.found, self.remedy, self.before, self.after)

    def phrased(self, words: Mapping[Remedy, str]) -> str:
        """The message on one line. `words` may give another wording for the remedy."""
        remedy = words.get(self.remedy, self.remedy.value)
        return f"{self.found}; {self.before}{remedy}{self.after}"


def _again(found: str, remedy: Remedy, before: str, after: str) -> UserError:
    return UserError(found, remedy, before=before, after=after)
