"""Plans from stored counters: order, sum, reasons, and nobody who is held."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos.errors import InvalidInput
from memos.schedule.eviction.entry import Entry
from memos.schedule.eviction.plan import plan_evictions
from memos.schedule.eviction.policies import POLICIES

DAY = 86_400.0
MB = 1_000_000
NOW = 100 * DAY

ENTRIES = [
    Entry("hot", 20 * MB, 0.8, uses=40, created_at=1 * DAY, used_at=99 * DAY),
    Entry("cold", 20 * MB, 0.8, uses=1, created_at=2 * DAY, used_at=2 * DAY),
    Entry("often, long ago", 20 * MB, 0.8, uses=60, created_at=1 * DAY, used_at=10 * DAY),
    Entry("new", 20 * MB, 0.8, uses=1, created_at=99 * DAY, used_at=99 * DAY),
    Entry("large", 400 * MB, 0.8, uses=4, created_at=50 * DAY, used_at=98 * DAY),
    Entry("pinned", 20 * MB, 0.1, uses=1, created_at=1 * DAY, used_at=1 * DAY, held=True),
]


def order(policy: str) -> list[object]:
    """Everybody who may go, in order."""
    return [step.entry.key for step in plan_evictions(ENTRIES, 10**12, NOW, policy=policy)]


def test_plans_have_the_order_of_their_policy() -> None:
    assert order("lru") == ["cold", "often, long ago", "large", "hot", "new"]
    assert order("lfu") == ["cold", "new", "large", "hot", "often, long ago"]
    assert order("gdsf") == ["large", "cold", "new", "hot", "often, long ago"]
    assert order("arc") == ["cold", "new", "often, long ago", "large", "hot"]
    assert order("s3fifo")[:2] == ["cold", "new"]
    assert order("density") == ["cold", "large", "often, long ago", "new", "hot"]
    assert order("learned") == order("lru")  # it begins with LRU


def test_reason_of_value_density_says_what_it_is_made_of() -> None:
    (step,) = plan_evictions(ENTRIES, 1, NOW)
    assert step.entry.key == "cold"
    assert step.reason.startswith("lowest value density: saves 0.8 s a use, 0.00")
    assert step.reason.endswith("uses a day expected, 20.0 MB; used once, idle for 98.0 d")


@pytest.mark.parametrize("policy", POLICIES)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 50), st.booleans(), st.floats(0.01, 90)), max_size=8),
    free=st.integers(0, 400),
)
def test_plan_frees_enough_and_no_more(policy: str, sizes: list[tuple[int, bool, float]], free: int) -> None:
    entries = [
        Entry(place, size, 0.5, label=place % 2, held=held, uses=heat, used_at=float(place % 5))
        for place, (size, held, heat) in enumerate(sizes)
    ]
    before = [asdict(one) for one in entries]
    plan = plan_evictions(entries, free, 10.0, policy=policy)
    gone = [step.entry for step in plan]
    possible = sum(one.bytes for one in entries if not one.held)
    assert len({one.key for one in gone}) == len(gone)
    assert not any(one.held for one in gone)
    assert sum(one.bytes for one in gone) >= min(free, possible)
    assert sum(one.bytes for one in gone[:-1]) < free or not gone
    assert all(step.reason for step in plan)
    assert [asdict(one) for one in entries] == before
    again = plan_evictions([replace(one) for one in entries], free, 10.0, policy=policy)
    assert [(step.entry.key, step.reason) for step in again] == [(step.entry.key, step.reason) for step in plan]


def test_unknown_policy_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no eviction policy"):
        plan_evictions(ENTRIES, 1, NOW, policy="random")
