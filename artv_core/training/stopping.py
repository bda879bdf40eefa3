"""When a command stops: on a signal, or when its time limit leaves just enough time to write the results."""

import itertools
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

WRITING = 20.0
"""Seconds reserved for writing a checkpoint and exiting, at most a fifth of the whole time."""

DISK_RATE = 200e6
"""Bytes per second that a slow disk writes."""

RECENT = 8
"""Number of recent steps whose times are used."""

SHEET_SHARE = 0.3
"""The largest share of the whole time that a sheet may take at the end."""

SHEET_START = 15.0
"""Estimated seconds of a sheet on top of its frames, before one has been drawn."""


class TimeLimit:
    """`minutes` from `started` on (`time.monotonic()`, by default now). Raises ValueError unless `minutes` is above 0
    and finite."""

    def __init__(self, minutes: float, started: float | None = None) -> None:
        if not 0 < minutes < float("inf"):
            raise ValueError(f"--minutes: got {minutes:g}, accepted are numbers above 0")
        self.minutes, self.started = minutes, time.monotonic() if started is None else started

    def left(self) -> float:
        """Seconds left, negative when the time is over."""
        return self.started + 60 * self.minutes - time.monotonic()

    def kept(self) -> float:
        """Seconds reserved for writing."""
        return min(WRITING, 0.2 * 60 * self.minutes)


class OutOfTime(SystemExit):
    """A stage has stopped because the time was over, after `done` steps, with its state saved. `trained` is its module
    with the averaged weights so far. As a SystemExit its code is 0."""

    def __init__(self, done: int, trained: nn.Module) -> None:
        super().__init__(0)
        self.done, self.trained = done, trained


class Course:
    """Decides when the time of a stage is over, from how long its steps, states and sheets have taken so far.

    `sheet_steps`: a sheet takes about as much work as this many steps. `state_bytes`: the size of a state.
    """

    def __init__(self, limit: TimeLimit | None, sheet_steps: float, state_bytes: int = 0) -> None:
        self.limit, self.sheet_steps = limit, sheet_steps
        self.longest = {"state": 1.0 + state_bytes / DISK_RATE}
        self.export = state_bytes / 4 / DISK_RATE  # weights are about a quarter of a state
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._beside, self._marked = 0.0, time.monotonic()

    def note(self, what: str, seconds: float) -> None:
        """Record seconds spent on something other than steps: "state", "sheet" or "" for anything else."""
        self._beside += seconds
        self.longest[what] = max(seconds, self.longest.get(what, 0.0))

    def step_done(self) -> None:
        """Record that a step has ended."""
        now = time.monotonic()
        self._recent.append(now - self._marked - self._beside)
        self._beside, self._marked = 0.0, now

    def step_seconds(self) -> float:
        """Seconds that a step takes: the shortest of the last few. The first one may include compiling and tuning, so
        on its own it counts half."""
        if len(self._recent) < 2:
            return sum(self._recent) / 2
        return max(0.0, min(self._recent))

    def sheet_seconds(self) -> float:
        """Seconds that a sheet takes: the longest so far, or an estimate from the steps."""
        return self.longest.get("sheet", SHEET_START + self.sheet_steps * self.step_seconds())

    def has_room_for_sheet(self) -> bool:
        """Whether there is enough time for a sheet at the end."""
        return self.limit is not None and self.sheet_seconds() < SHEET_SHARE * 60 * self.limit.minutes

    def is_hurried(self) -> bool:
        """Whether there is no time now for a sheet or held-out losses. Always false without a limit."""
        if self.limit is None:
            return False
        looking = max(self.sheet_seconds(), self.longest.get("", 0.0))
        return self.limit.left() < self._kept() + looking

    def is_over(self) -> bool:
        """Whether the stage must stop now, after a step. Always false without a limit."""
        if self.limit is None:
            return False
        sheet = self.sheet_seconds() if self.has_room_for_sheet() else 0.0
        return self.limit.left() < self._kept() + sheet + self.step_seconds()

    def _kept(self) -> float:
        """Seconds needed for a state, a checkpoint and exiting."""
        assert self.limit is not None
        return self.limit.kept() + self.longest["state"] + self.export


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether SIGTERM or SIGINT was received. The current step is finished first."""
    seen = itertools.count()
    received = [False]

    def handle(*_: object) -> None:
        if next(seen) > 0:
            raise KeyboardInterrupt
        received[0] = True

    before = {sig: signal.signal(sig, handle) for sig in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: received[0]
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)
