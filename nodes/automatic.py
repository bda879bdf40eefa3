"""Inputs that can be left to the checkpoint: a text box that says "auto" until someone types a number over it.

The page shows the recommended number in it, as in "auto (4)", and saves "auto". Earlier releases had number boxes, in
which 0 or -1 stood for the recommendation: those values are still read.
"""

import math
import re
import sys
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

AUTO = "auto"
KEY = "artv_auto"
"""The page finds these inputs by this key in their options; its value tells how the text is read and shown."""

_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)", re.ASCII)
_LONGEST_SHOWN = 50


@dataclass(frozen=True)
class Automatic:
    """One such input. `whole`: only whole numbers. `zero`: 0 is a number like any other; without it, 0 means auto.
    Numbers below 0 always mean auto. `most` is the largest number that can be typed. The page rounds to multiples of
    `step`, and shows the recommendation that is called `shows`. `word` is the text that stands for no number."""

    name: str
    tooltip: str
    whole: bool = False
    zero: bool = False
    most: float = 100.0
    step: int | None = None
    shows: str | None = None
    word: str = AUTO
    meaning: str = "what the checkpoint recommends"

    def input(self, optional: bool = False) -> io.Input:
        """The host's description: a text box. Wires may also bring numbers."""
        text = io.String.Input(self.name, default=self.word, tooltip=self.tooltip, optional=optional)
        about = {"whole": self.whole, "zero": self.zero, "most": self.most, "step": self.step, "shows": self.shows}
        return with_options(io.MultiType.Input(text, types=[io.Int, io.Float]), **{KEY: {"word": self.word, **about}})

    def read(self, value: Any) -> float | None:
        """The number (an int if only whole numbers are read), or None for auto. Raises ValueError for anything else."""
        number = self._number(value)
        if number is None or number < 0 or (number == 0 and not self.zero):
            return None
        if number > sys.float_info.max:
            raise ValueError(f"{self.name} is too large a number; give {self.most:g} at most, or {self.word}")
        if not self.whole:
            return float(number)
        if number != int(number):
            raise ValueError(f"{self.name} is {number:g}; give a whole number, or {self.word} for {self.meaning}")
        return int(number)

    def whole_number(self, value: Any) -> int | None:
        """The same for an input that reads only whole numbers."""
        number = self.read(value)
        return None if number is None else int(number)

    def check(self, value: Any) -> None:
        """Raises ValueError if what was typed is no number, or too large."""
        number = self.read(value)
        if number is not None and number > self.most:
            raise ValueError(f"{self.name} is {number:g}; give {self.most:g} at most, or {self.word}")

    def _number(self, value: Any) -> float | None:
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf:
            return value
        text = str(value).strip()
        if not text or re.fullmatch(rf"{self.word}(\s*\(.*\))?", text, re.IGNORECASE):
            return None
        if isinstance(value, str) and _NUMBER.fullmatch(text):
            return float(text.replace(",", "."))
        raise ValueError(f"{self.name} is {text[:_LONGEST_SHOWN]!r}; give a number, or {self.word} for {self.meaning}")


def with_options(described: io.Input, **options: Any) -> io.Input:
    """The same input with more options for the page. (Not all hosts take these as an argument.)"""
    described.extra_dict = {**described.extra_dict, **options}
    return described


def advanced(described: io.Input) -> io.Input:
    """The same input, which the page shows only on demand."""
    return with_options(described, advanced=True)
