"""Work that is counted: how long something takes says more of the machine, and of what else it does, than of us."""

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass
class Calls:
    """How many functions were called, those written in C among them."""

    number: int = 0


@contextmanager
def counted_calls():
    """`with counted_calls() as calls:` what this thread calls in here. It sees loops in Python, not those in C."""
    calls, before = Calls(), sys.getprofile()

    def count(frame: FrameType, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            calls.number += 1

    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(before)
