"""Errors that a user can mend, without the words of any one user interface. Not in the paper.

The core says what it found and which remedy there is. The command line and the nodes say where that remedy is: an
option, a menu, a node.
"""

from collections.abc import Mapping
from enum import Enum


class Remedy(Enum):
    """What a user can do; the value is how the core itself puts it."""

    BASE = "name a base checkpoint"
    NO_JOURNAL = "do without a journal"


class UserError(ValueError):
    """`found` says what is wrong. `before` and `after` stand around the remedy, such as "make room, or "."""

    def __init__(self, found: str, remedy: Remedy, *, before: str = "", after: str = "") -> None:
        self.found, self.remedy, self.before, self.after = found, remedy, before, after
        super().__init__(self.phrased({}))

    def phrased(self, words: Mapping[Remedy, str]) -> str:
        """One line, with the remedy in these `words` where they have it."""
        remedy = words.get(self.remedy, self.remedy.value)
        return f"{self.found}; {self.before}{remedy}{self.after}"
