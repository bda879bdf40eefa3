"""Keeps previews cheap: shows few of many frames, evenly spaced, and spends only a share of the time. Not in the
paper."""

import bisect
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar


class _Indexed(Protocol):
    @property
    def index(self) -> int: ...


T = TypeVar("T", bound=_Indexed)


class Thinned(Generic[T]):
    """At most `limit` items in order of their frames, one for each frame, always with the first and the last, and about
    evenly spaced. When an item must go, it is the one whose neighbours are closest to each other."""

    def __init__(self, limit: int, items: Iterable[T] = ()) -> None:
        self.limit, self.items = limit, list[T]()
        for item in items:
            self.add(item)

    def add(self, item: T) -> None:
        """Add an item; it replaces an earlier one of the same frame."""
        place = bisect.bisect_left(self.items, item.index, key=lambda one: one.index)
        self.items[place : place + (self.get(item.index) is not None)] = [item]
        if len(self.items) > self.limit:
            del self.items[min(range(1, self.limit), key=self._gap)]

    def get(self, index: int) -> T | None:
        """The item of a frame, if there is one."""
        place = bisect.bisect_left(self.items, index, key=lambda one: one.index)
        return self.items[place] if place < len(self.items) and self.items[place].index == index else None

    def cut(self, index: int) -> None:
        """Drop the items from `index` on."""
        del self.items[bisect.bisect_left(self.items, index, key=lambda one: one.index) :]

    def _gap(self, place: int) -> int:
        return self.items[place + 1].index - self.items[place - 1].index


SHORTEST = 1e-6
"""Seconds that one item takes at least, because a coarse clock may measure none."""


class Budget:
    """Time for extra work: a `share` of all seconds by the `clock` since this was made, minus the time already
    spent."""

    def __init__(self, share: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._share, self._clock, self._started = share, clock, clock()
        self._spent = 0.0
        self._each: float | None = None
        self._trials = 0

    def affordable(self, wanted: int) -> int:
        """For how many of `wanted` items there is time now. The first two are tried one by one: until then it is not
        known what one takes, and the very first one takes longer than the others."""
        left = self._share * (self._clock() - self._started) - self._spent
        if self._each is None:
            return min(1, wanted) if left > 0 else 0
        return max(0, min(wanted, int(left / self._each)))

    @contextmanager
    def spending(self, count: int) -> Iterator[None]:
        """Wrap the work for `count` items in this, so that its time is counted."""
        before = self._clock()
        yield
        took = self._clock() - before
        self._spent += took
        self._trials += 1
        self._each = max(took / count, SHORTEST) if self._trials > 1 else None
