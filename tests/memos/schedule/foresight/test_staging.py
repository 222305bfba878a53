"""Staging: within its bytes, by value density, and nothing stays that was dropped."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos.schedule.foresight.staging import HALF_LIFE_S, MOST_OWNERS, Counts, Offer, Staging

ANN, BOB = ("default", "ann"), ("default", "bob")


def offer(
    key: str, probability: float = 0.5, *, size: int = 10, owner: tuple[str, str] = ANN, seconds: float = 1.0
) -> Offer:
    return Offer(key, owner, size, seconds, probability)


def stage(staging: Staging, one: Offer, value: Any = "value") -> bool:
    return staging.admit(one) and staging.fill(one.key, value)


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(now=0.0)


@pytest.fixture
def staging(clock: SimpleNamespace) -> Staging:
    return Staging(30, lambda: float(clock.now))


def test_what_is_staged_is_taken_once(staging: Staging) -> None:
    assert stage(staging, offer("a"))
    assert staging.take("a", ANN) == "value"
    assert staging.take("a", ANN) is None
    assert (staging.bytes, staging.counts(ANN)) == (0, Counts(hits=1, misses=1, bytes=10))
    assert staging.counts(ANN).hit_rate == 0.5
    assert staging.counts(BOB) == Counts()
    assert staging.counts() == staging.counts(ANN)


def test_what_is_worth_less_goes_first(staging: Staging) -> None:
    for key, probability in (("a", 0.3), ("b", 0.1), ("c", 0.5)):
        stage(staging, offer(key, probability))
    assert not stage(staging, offer("d", 0.05))
    assert not stage(staging, offer("d", 0.11))  # hardly more: not worth reading
    assert stage(staging, offer("d", 0.4))
    assert staging.keys == {"a", "c", "d"}
    assert staging.counts().wasted_bytes == 10
    assert not stage(staging, offer("e", 0.45, size=20))  # a and d are worth as much per byte
    assert stage(staging, offer("e", 0.4, seconds=9, size=20))
    assert staging.keys == {"c", "e"}


def test_nothing_larger_than_the_budget_is_read(staging: Staging) -> None:
    assert not staging.admit(offer("a", size=31))
    assert not Staging(0).admit(offer("a", size=1))


def test_old_predictions_are_worth_less(staging: Staging, clock: SimpleNamespace) -> None:
    for key in "abc":
        stage(staging, offer(key, 0.5))
    assert not staging.admit(offer("d", 0.4, owner=BOB))
    clock.now = HALF_LIFE_S
    assert staging.admit(offer("d", 0.4, owner=BOB))
    staging.predict(ANN, {"b": 0.5})
    assert not staging.admit(offer("e", 0.02, owner=BOB, size=30))
    assert staging.admit(offer("e", 0.02, owner=BOB))  # whatever was not predicted again is worth nothing
    assert "b" in staging.keys


def test_predictions_of_one_user_say_nothing_of_another(staging: Staging) -> None:
    stage(staging, offer("a", 0.5, owner=BOB))
    staging.predict(ANN, {"a": 0.0})
    assert not staging.admit(offer("b", 0.4, size=30))


@pytest.mark.parametrize("when", ["reading", "read"])
def test_what_was_dropped_does_not_come_back(staging: Staging, when: str) -> None:
    assert staging.admit(offer("a"))
    if when == "read":
        staging.fill("a", "secret")
    staging.drop(["a", "unknown"])
    assert not staging.fill("a", "secret")
    assert staging.take("a", ANN) is None
    assert staging.counts().wasted_bytes == (10 if when == "read" else 0)


def test_who_needs_what_is_being_read_reads_it(staging: Staging) -> None:
    staging.admit(offer("a"))
    assert staging.take("a", ANN) is None
    assert not staging.fill("a", "value")
    assert staging.counts() == Counts(misses=1)


def test_counters_are_bounded(staging: Staging) -> None:
    for number in range(MOST_OWNERS + 5):
        staging.take("a", ("default", f"user {number}"))
    assert len(staging._counts) == MOST_OWNERS
    assert staging.counts().misses == MOST_OWNERS + 5


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from("stage take drop predict".split()), st.integers(0, 9), st.floats(0, 1), st.integers(1, 40)
    ),
    max_size=60,
)


@given(ACTIONS)
def test_bytes_are_bounded_and_accounted_for(actions: list[tuple[str, int, float, int]]) -> None:
    staging, taken, sizes = Staging(50, lambda: 0.0), 0, {}
    for action, number, probability, size in actions:
        key = f"k{number}"
        if action == "stage" and stage(staging, offer(key, probability, size=size)):
            sizes[key] = size
        elif action == "take" and staging.take(key, ANN) is not None:
            taken += sizes[key]
        elif action == "drop":
            staging.drop([key])
        elif action == "predict":
            staging.predict(ANN, {key: probability})
        assert staging.bytes <= 50
        counts = staging.counts()
        assert counts.bytes == staging.bytes + taken + counts.wasted_bytes
