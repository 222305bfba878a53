"""Evictions with one-bit predictions: consistent when they are right, robust when they are not."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos.schedule.eviction.base import Policy
from memos.schedule.eviction.belady import Belady, next_uses
from memos.schedule.eviction.discard import Discard
from memos.schedule.eviction.entry import Entry
from memos.schedule.eviction.guarded import Guarded
from memos.schedule.eviction.lru import Lru
from memos.schedule.eviction.optgen import OptGen
from memos.schedule.eviction.oracle import discard_bits, flipped, phase_bits, told
from memos.schedule.eviction.phase import Phase
from memos.schedule.eviction.policies import learned
from memos.schedule.eviction.predictor import DiscardPredictor

Trace = list[int]
Run = Callable[[Policy, Trace], list[bool]]
TRACES = st.lists(st.integers(0, 11), max_size=100)
ROOM = st.integers(1, 8)


def optimum(run: Run, trace: Trace, capacity: int) -> int:
    """The fewest misses."""
    return run(Belady(capacity, next_uses(trace)), trace).count(False)


@given(trace=TRACES, capacity=ROOM)
def test_right_discard_bits_make_the_optimum(run: Run, trace: Trace, capacity: int) -> None:
    policy = Discard(capacity, told(discard_bits(trace, capacity)))
    assert run(policy, trace).count(False) == optimum(run, trace, capacity)


@given(trace=TRACES, capacity=ROOM)
def test_right_phase_bits_miss_at_most_twice_as_often(run: Run, trace: Trace, capacity: int) -> None:
    policy = Phase(capacity, told(phase_bits(trace, capacity)))
    assert run(policy, trace).count(False) <= 2 * optimum(run, trace, capacity)


@given(trace=TRACES, capacity=ROOM, data=st.data())
def test_every_wrong_discard_bit_costs_no_more_than_proven(
    run: Run, trace: Trace, capacity: int, data: st.DataObject
) -> None:
    right = discard_bits(trace, capacity)
    bits = data.draw(st.lists(st.booleans(), min_size=len(trace), max_size=len(trace)))
    wrong = [said for said, true in zip(bits, right, strict=True) if said != true]
    misses = run(Discard(capacity, told(bits)), trace).count(False)
    assert misses <= optimum(run, trace, capacity) + (capacity - 1) * wrong.count(False) + wrong.count(True)


@pytest.mark.parametrize("kind", [Discard, Phase])
@pytest.mark.parametrize("bit", [False, True])
@given(trace=TRACES, capacity=ROOM)
def test_equal_bits_make_lru(run: Run, kind: Callable[..., Policy], bit: bool, trace: Trace, capacity: int) -> None:
    assert run(kind(capacity, lambda _: bit), trace) == run(Lru(capacity), trace)


@pytest.mark.parametrize("wrong", [0.5, 1.0])
@pytest.mark.parametrize("capacity", [20, 60])
@pytest.mark.parametrize(("kind", "bits"), [(Discard, discard_bits), (Phase, phase_bits)])
def test_guarded_policy_stays_near_lru_with_bad_bits(
    run: Run, popular: Trace, kind: Callable[..., Policy], bits: Callable[..., list[bool]], wrong: float, capacity: int
) -> None:
    predictor = told(flipped(bits(popular, capacity), wrong))
    guarded = sum(run(Guarded(kind(capacity, predictor)), popular))
    assert guarded >= 0.95 * sum(run(Lru(capacity), popular))


@pytest.mark.parametrize("capacity", [20, 60])
def test_guarded_policy_is_followed_with_good_bits(run: Run, popular: Trace, capacity: int) -> None:
    bits = flipped(discard_bits(popular, capacity), 0.02)
    lru = sum(run(Lru(capacity), popular))
    plain = sum(run(Discard(capacity, told(bits)), popular))
    guarded = sum(run(Guarded(Discard(capacity, told(bits))), popular))
    assert plain > 1.03 * lru
    assert guarded > lru + 0.5 * (plain - lru)


def test_guarded_policy_is_given_up_when_it_goes_wrong(run: Run, popular: Trace) -> None:
    trace = popular + popular
    bits = discard_bits(trace, 60)
    bits[len(popular) :] = [not bit for bit in bits[len(popular) :]]
    late = {name: sum(run(policy, trace)[len(popular) :]) for name, policy in _pair(bits).items()}
    lru = sum(run(Lru(60), trace)[len(popular) :])
    assert late["plain"] < 0.9 * lru
    assert late["guarded"] > 0.95 * lru


def _pair(bits: list[bool]) -> dict[str, Policy]:
    return {"plain": Discard(60, told(bits)), "guarded": Guarded(Discard(60, told(bits)))}


@given(trace=TRACES, capacity=st.integers(1, 8))
def test_hindsight_keeps_what_the_optimum_keeps(run: Run, trace: Trace, capacity: int) -> None:
    """With a stretch for every request it is the optimum that need not keep what is asked for."""
    hindsight = OptGen(capacity, turns=200)
    last: dict[int, int] = {}
    kept = 0
    for key in trace:
        hindsight.request(1)
        if key in last:
            kept += hindsight.kept(1, last[key])
        last[key] = hindsight.clock
    hits = [len(trace) - optimum(run, trace, room) for room in (capacity, capacity + 1)]
    assert hits[0] <= kept <= hits[1]


def test_hindsight_ends_where_it_forgot() -> None:
    hindsight = OptGen(32, turns=2)
    hindsight.request(1)
    since = hindsight.clock
    for _ in range(hindsight.reach + 1):
        hindsight.request(1)
    assert hindsight.reach == 64
    assert not hindsight.kept(1, since)
    hindsight.request(10 * hindsight.reach)
    assert hindsight.kept(32, hindsight.clock - 8)


@pytest.fixture(scope="module")
def sessions() -> list[Entry]:
    """Blocks that are used again soon, among others that never are, told apart by label and by what they follow."""
    draw = random.Random(5)
    asked = []
    for turn in range(3_000):
        asked.append(Entry(("session", draw.randrange(turn // 40, turn // 40 + 25)), 1, label="open"))
        asked.append(Entry(("once", turn), 1, label="closed"))
    return asked


def test_predictor_learns_what_is_used_again(sessions: list[Entry]) -> None:
    predict = DiscardPredictor(25)
    bits = [predict(one) for one in sessions]
    late = list(zip(sessions, bits, strict=True))[3_000:]
    assert sum(bit for one, bit in late if one.label == "closed") > 0.95 * len(late) / 2
    assert sum(bit for one, bit in late if one.label == "open") < 0.2 * len(late) / 2


def test_learned_policy_beats_lru_where_labels_tell(sessions: list[Entry]) -> None:
    hits = [
        sum(policy.request(one.anew(), place) for place, one in enumerate(sessions))
        for policy in (Lru(25), learned(25), learned(25))
    ]
    assert hits[1] > 1.2 * hits[0]
    assert hits[1] == hits[2]
