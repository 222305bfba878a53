"""What has to hold for every policy, whatever it decides."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos.errors import InvalidInput
from memos.schedule.eviction.base import Policy
from memos.schedule.eviction.belady import Belady, next_uses
from memos.schedule.eviction.entry import Entry
from memos.schedule.eviction.policies import POLICIES, make_policy

KEYS = st.integers(0, 11)
STEPS = st.lists(st.tuples(st.sampled_from(["request"] * 6 + ["hold", "release", "drop", "evict"]), KEYS), max_size=40)
Maker = Callable[[int, list[int]], Policy]


def entry(key: int) -> Entry:
    """Return an entry whose size, savings and label follow from its key."""
    return Entry(key, 1 + key % 4, seconds=1.0 + key % 3, label=key % 2, before=key - 1)


@given(steps=STEPS, capacity=st.integers(3, 20))
def test_capacity_holds_and_held_entries_stay(make: Maker, steps: list[tuple[str, int]], capacity: int) -> None:
    policy = make(capacity, [key for _, key in steps])
    there: dict[Hashable, Entry] = {}
    held: set[Hashable] = set()
    for now, (step, key) in enumerate(steps):
        if step == "request" and key in policy:
            policy.hit(key, now)
        elif step == "request" and policy.fits(entry(key).bytes):
            gone = {one.key for one in policy.admit(entry(key), now)}
            assert gone <= there.keys() - held
            there = {one: there[one] for one in there.keys() - gone} | {key: entry(key)}
        elif step == "hold" and key in policy:
            policy.hold(key)
            held.add(key)
        elif step == "release" and key in policy:
            policy.release(key)
            held.discard(key)
        elif step == "drop":
            policy.drop(key)
            there.pop(key, None)
            held.discard(key)
        elif step == "evict":
            expected = policy.victim(now)
            evicted = policy.evict(now)
            assert evicted is expected
            assert (evicted is None) == (there.keys() <= held)
            if evicted is not None:
                assert evicted.key not in held
                del there[evicted.key]
        assert {one for one in range(12) if one in policy} == there.keys()
        assert len(policy) == len(there)
        assert policy.used == sum(one.bytes for one in there.values()) <= capacity


@given(trace=st.lists(KEYS, max_size=80), capacity=st.integers(1, 9))
def test_requested_entry_hits_next_and_no_policy_beats_belady(
    make: Maker, run: Callable[..., list[bool]], trace: list[int], capacity: int
) -> None:
    twice = [key for key in trace for _ in range(2)]
    hits = run(make(capacity, twice), twice)
    assert all(hits[1::2])
    assert sum(hits) <= sum(run(Belady(capacity, next_uses(twice)), twice))


def test_equal_traces_have_equal_hits(make: Maker, run: Callable[..., list[bool]], popular: list[int]) -> None:
    assert run(make(30, popular), popular) == run(make(30, popular), popular)


def test_what_is_held_leaves_no_room(make: Maker) -> None:
    policy = make(4, [1, 2, 3])
    policy.admit(Entry(1, 4, held=True), 0)
    assert policy.victim(1) is None
    assert policy.evict(1) is None
    assert not policy.fits(1)
    assert not policy.request(Entry(2, 1), 1)
    assert 2 not in policy
    with pytest.raises(ValueError, match="does not fit into 4"):
        policy.admit(Entry(2, 1), 1)
    policy.release(1)
    assert [one.key for one in policy.admit(Entry(2, 1), 2)] == [1]


def test_entry_larger_than_the_tier_is_not_admitted(make: Maker) -> None:
    policy = make(4, [1, 2])
    policy.request(Entry(1, 2), 0)
    assert not policy.request(Entry(2, 5), 1)
    assert 1 in policy


def test_reasons_are_given_without_keys(make: Maker, popular: list[int]) -> None:
    policy = make(30, popular)
    for place, key in enumerate(popular[:200]):
        policy.request(Entry(f"secret {key}", 1), place)
        victim = policy.victim(place)
        assert victim is not None
        reason = policy.reason(victim, place)
        assert len(reason) > 10
        assert "secret" not in reason


@pytest.mark.parametrize("capacity", [0, -1])
def test_tier_without_room_is_refused(make: Maker, capacity: int) -> None:
    with pytest.raises(ValueError, match="room for some bytes"):
        make(capacity, [])


def test_policies_have_the_names_they_are_asked_for() -> None:
    assert {make_policy(name, 10).name for name in POLICIES} == {*POLICIES} - {"learned"} | {"guarded discard"}
    with pytest.raises(InvalidInput, match="no eviction policy is called 'fifo'; there are: lru, lfu"):
        make_policy("fifo", 10)
