"""Thinning keeps ends, order and even spacing within its bound; a budget never gives more than its share."""

from contextlib import nullcontext
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.preview_budget import Budget, Thinned


class Item(NamedTuple):
    index: int
    name: str = ""


@given(st.lists(st.integers(0, 10_000), min_size=1, unique=True), st.integers(3, 50))
def test_the_first_the_last_and_no_more_than_the_limit_stay(indices, limit):
    kept = [item.index for item in Thinned(limit, map(Item, sorted(indices))).items]
    assert kept == sorted(set(kept))
    assert (kept[0], kept[-1]) == (min(indices), max(indices))
    assert len(kept) == min(limit, len(indices))
    assert set(kept) <= set(indices)


@pytest.mark.parametrize("count", [121, 500, 1000, 10_000])
def test_what_stays_is_about_evenly_spaced(count):
    kept = [item.index for item in Thinned(120, map(Item, range(count))).items]
    gaps = [later - earlier for earlier, later in pairwise(kept)]
    assert max(gaps) <= 4 * count / 120


def test_one_comes_in_its_place_and_instead_of_an_earlier_one_of_its_frame():
    thinned = Thinned(10, [Item(0), Item(4, "old"), Item(8)])
    thinned.add(Item(4, "new"))
    thinned.add(Item(2))
    assert thinned.items == [Item(0), Item(2), Item(4, "new"), Item(8)]
    assert thinned.get(4) == Item(4, "new")
    assert thinned.get(3) is None


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    st.floats(0.001, 0.5),
    st.lists(st.tuples(st.floats(0, 2), st.floats(0.0001, 0.5), st.integers(1, 20)), min_size=1, max_size=60),
)
def test_no_more_than_the_share_and_one_thing_is_spent(share, turns):
    """One thing may take longer than the one before it did, and the first two are tried unknown."""
    clock = Clock()
    budget, spent, longest = Budget(share, clock), 0.0, 0.0
    for work, each, wanted in turns:
        clock.now += work
        count = budget.affordable(wanted)
        assert 0 <= count <= wanted
        with budget.spending(count) if count else nullcontext():
            clock.now += each * count
        longest = max(longest, each * max(count, 1))
        spent += each * count
        assert spent <= share * clock.now + longest + 1e-9


def test_a_coarse_clock_may_measure_nothing():
    """As on Windows, whose `time.monotonic` moves every 16 ms before Python 3.13."""
    clock = Clock()
    budget = Budget(0.1, clock)
    clock.now = 1.0
    for _ in range(2):
        assert budget.affordable(5) == 1
        with budget.spending(1):
            pass
    assert budget.affordable(5) == 5


def test_the_first_things_are_tried_one_by_one_then_as_many_as_there_is_time_for():
    clock = Clock()
    budget = Budget(0.1, clock)
    assert budget.affordable(5) == 0  # no time has gone by
    clock.now = 1.0
    assert budget.affordable(5) == 1
    with budget.spending(1):
        clock.now += 1.0  # the first one loads something
    assert budget.affordable(5) == 0  # 1 s of 0.2 s
    clock.now = 40.0
    assert budget.affordable(5) == 1  # there is time for three such, but what the first one took says nothing
    with budget.spending(1):
        clock.now += 0.1
    assert budget.affordable(50) == 29  # (0.1 * 40.1 - 1.1) / 0.1
    assert budget.affordable(5) == 5
