"""Policies against slow ones, written as the papers have them, on entries of one size."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos.schedule.eviction.belady import Belady, next_uses
from memos.schedule.eviction.density import ValueDensity
from memos.schedule.eviction.entry import Entry
from memos.schedule.eviction.policies import make_policy

Trace = list[int]
TRACES = st.lists(st.integers(0, 15), max_size=120)
ROOM = st.integers(1, 12)


def lru(trace: Trace, capacity: int) -> list[bool]:
    """A list in the order of last uses."""
    there: list[int] = []
    hits = []
    for key in trace:
        hits.append(key in there)
        there = [*[one for one in there if one != key], key][-capacity:]
    return hits


def ranked(trace: Trace, capacity: int, rank: Callable[[int, float], float]) -> list[bool]:
    """The lowest ``rank(uses, rank of the last evicted)`` goes, of equals the least recently used."""
    uses: dict[int, int] = {}
    ranks: dict[int, tuple[float, int]] = {}
    floor = 0.0
    hits = []
    for place, key in enumerate(trace):
        hits.append(key in ranks)
        if key not in ranks and len(ranks) == capacity:
            lowest = min(ranks, key=lambda one: ranks[one])
            floor = ranks.pop(lowest)[0]
            del uses[lowest]
        uses[key] = uses.get(key, 0) + 1
        ranks[key] = (rank(uses[key], floor), place)
    return hits


def s3fifo(trace: Trace, capacity: int) -> list[bool]:
    """Algorithm 1 of Yang et al., lists in the order of insertion."""
    most_small = max(capacity // 10, 1)
    most_main = capacity - most_small
    small: list[int] = []
    main: list[int] = []
    ghosts: list[int] = []
    freq: dict[int, int] = {}

    def evict_main() -> None:
        while freq[main[0]] > 0:
            freq[main[0]] -= 1
            main.append(main.pop(0))
        del freq[main.pop(0)]

    def evict_small() -> None:
        while small:
            key = small.pop(0)
            if freq[key] <= 1:
                del freq[key]
                ghosts.append(key)
                del ghosts[: max(len(ghosts) - most_main, 0)]
                return
            freq[key] = 0
            main.append(key)
            if len(main) > most_main:
                evict_main()
                return
        evict_main()

    hits = []
    for key in trace:
        hits.append(key in freq)
        if key in freq:
            freq[key] = min(freq[key] + 1, 3)
            continue
        if len(freq) == capacity:
            if len(small) >= most_small:
                evict_small()
            else:
                evict_main()
        if key in ghosts:
            ghosts.remove(key)
            main.append(key)
        else:
            small.append(key)
        freq[key] = 0
    return hits


def arc(trace: Trace, capacity: int) -> list[bool]:
    """Figure 4 of Megiddo and Modha, lists from least to most recent."""
    t1: list[int] = []
    t2: list[int] = []
    b1: list[int] = []
    b2: list[int] = []
    p = 0.0

    def replace(key: int) -> None:
        if t1 and (len(t1) > p or (key in b2 and len(t1) == p)):
            b1.append(t1.pop(0))
        else:
            b2.append(t2.pop(0))

    hits = []
    for key in trace:
        hits.append(key in t1 or key in t2)
        if key in t1 or key in t2:
            (t1 if key in t1 else t2).remove(key)
            t2.append(key)
        elif key in b1:
            p = min(capacity, p + max(len(b2) / len(b1), 1))
            replace(key)
            b1.remove(key)
            t2.append(key)
        elif key in b2:
            p = max(0, p - max(len(b1) / len(b2), 1))
            replace(key)
            b2.remove(key)
            t2.append(key)
        else:
            if len(t1) + len(b1) == capacity:
                if len(t1) < capacity:
                    b1.pop(0)
                    replace(key)
                else:
                    t1.pop(0)
            elif len(t1) + len(t2) + len(b1) + len(b2) >= capacity:
                if len(t1) + len(t2) + len(b1) + len(b2) == 2 * capacity:
                    b2.pop(0)
                replace(key)
            t1.append(key)
    return hits


REFERENCES: dict[str, Callable[[Trace, int], list[bool]]] = {
    "lru": lru,
    "lfu": lambda trace, capacity: ranked(trace, capacity, lambda uses, _: uses),
    "gdsf": lambda trace, capacity: ranked(trace, capacity, lambda uses, floor: floor + uses),
    "s3fifo": s3fifo,
    "arc": arc,
}


@pytest.mark.parametrize("name", REFERENCES)
@given(trace=TRACES, capacity=ROOM)
def test_policy_equals_the_paper(run: Callable[..., list[bool]], name: str, trace: Trace, capacity: int) -> None:
    assert run(make_policy(name, capacity), trace) == REFERENCES[name](trace, capacity)


@pytest.mark.parametrize("name", REFERENCES)
def test_policy_equals_the_paper_for_long(run: Callable[..., list[bool]], name: str, popular: Trace) -> None:
    assert run(make_policy(name, 60), popular) == REFERENCES[name](popular, 60)


@given(trace=st.lists(st.integers(0, 5), max_size=10), capacity=st.integers(1, 4))
def test_belady_is_the_optimum(run: Callable[..., list[bool]], trace: Trace, capacity: int) -> None:
    assert run(Belady(capacity, next_uses(trace)), trace).count(False) == fewest_misses(trace, capacity)


def fewest_misses(trace: Trace, capacity: int) -> int:
    """Try every choice."""
    states: dict[frozenset[int], int] = {frozenset(): 0}
    for key in trace:
        following: dict[frozenset[int], int] = {}
        for there, misses in states.items():
            kept = [there] if key in there or len(there) < capacity else [there - {one} for one in there]
            for one in kept:
                state = one | {key}
                cost = misses + (key not in there)
                following[state] = min(following.get(state, cost), cost)
        states = following
    return min(states.values())


class Exhaustive(ValueDensity):
    """Compares all entries."""

    def _victim(self, now: float) -> Entry:
        def price(key: Hashable) -> tuple[float, float]:
            entry = self._there[key]
            return self._rate(self._place[key][0], entry, now), entry.used_at

        return self._there[min(self._there, key=price)]


@given(trace=TRACES, capacity=ROOM)
def test_density_finds_the_lowest_of_all(run: Callable[..., list[bool]], trace: Trace, capacity: int) -> None:
    assert run(ValueDensity(capacity), trace) == run(Exhaustive(capacity), trace)
