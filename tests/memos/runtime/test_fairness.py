"""Even shares for owners (VTC): whatever they ask, however much of it, and whenever they come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Many

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos.activation.kv import KVShape
from memos.runtime import fairness
from memos.runtime.fairness import READ, WRITTEN, FairQueue
from memos.runtime.request import Job
from memos.runtime.sequence import Sequence

SHAPE = KVShape(1, 1, 2, "float32")


def job(owner: str, tokens: int = 10) -> Job:
    return Job(Sequence([1] * tokens, SHAPE), owner=owner)


def push(queue: FairQueue, owner: str, *tokens: int) -> list[Job]:
    jobs = [job(owner, count) for count in tokens or (10,)]
    for one in jobs:
        queue.push(one)
    return jobs


def serve(queue: FairQueue, turns: int, written: int = 0) -> list[Job]:
    """Run the next job to its end, so many times."""
    served = []
    for _ in range(turns):
        one = next(queue.fair_order())
        queue.start(one)
        for _ in range(written):
            queue.charge(one, WRITTEN)
        queue.finish(one)
        served.append(one)
    return served


def owners(jobs: Many[Job]) -> str:
    return "".join(one.owner for one in jobs)


@given(
    st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(1, 50), min_size=30, max_size=40), min_size=2),
    st.integers(0, 20),
)
def test_shares_stay_within_a_request_of_each_other(asked: dict[str, list[int]], written: int) -> None:
    """The bound of VTC: while all wait, no owner is ahead of another by more than what one request costs."""
    queue = FairQueue()
    for owner, tokens in asked.items():
        push(queue, owner, *tokens)
    given_to: Counter[str] = Counter(dict.fromkeys(asked, 0))
    most = READ * 50 + WRITTEN * written
    while set(queue._waiting) == set(asked):
        (one,) = serve(queue, 1, written)
        given_to[one.owner] += int(READ * len(one.sequence.tokens) + WRITTEN * written)
        assert max(given_to.values()) - min(given_to.values()) <= most


def test_crowd_and_single_requests_take_turns() -> None:
    queue = FairQueue()
    push(queue, "a", *[10] * 100)
    assert owners(serve(queue, 5)) == "aaaaa"
    push(queue, "b", *[10] * 3)
    assert sorted(owners(serve(queue, 6))) == list("aaabbb")
    assert len(queue) == 92


def test_owner_is_served_in_the_order_of_asking() -> None:
    queue = FairQueue()
    mine = push(queue, "a", 30, 1, 20)
    push(queue, "b", 5)
    assert [one for one in queue.fair_order() if one.owner == "a"] == mine
    assert [one for one in serve(queue, 4) if one.owner == "a"] == mine


def test_who_was_away_gets_no_credit() -> None:
    queue = FairQueue()
    push(queue, "b", 10)
    push(queue, "a", *[10] * 50)
    serve(queue, 1)  # b leaves with little
    serve(queue, 20)
    push(queue, "b", *[10] * 20)
    push(queue, "c", *[10] * 20)
    assert Counter(owners(serve(queue, 15))) == {"a": 5, "b": 5, "c": 5}


def test_who_comes_back_keeps_its_debt() -> None:
    queue = FairQueue()
    push(queue, "a", *[10] * 50)
    push(queue, "b", 200)
    serve(queue, 2)  # one of each: b has had as much as twenty of a
    push(queue, "b", 10)
    assert owners(serve(queue, 21)).index("b") in (19, 20)  # even by then


def test_owner_who_only_runs_is_there_to_be_compared_with() -> None:
    queue = FairQueue()
    (running,) = push(queue, "a", 500)
    queue.start(running)
    push(queue, "b", *[100] * 4)
    push(queue, "a", 100)
    assert owners(serve(queue, 1)) in ("a", "b")  # both begin even
    assert Counter(owners(serve(queue, 4))) in ({"b": 3, "a": 1}, {"b": 4})
    queue.finish(running)
    assert not queue._running


def test_what_is_shared_is_not_paid_for() -> None:
    queue = FairQueue()
    one, other = push(queue, "a", 100) + push(queue, "b", 100)
    one.sequence.advance(80)
    queue.start(one)
    queue.start(other)
    assert queue._given == {"a": 20 * READ, "b": 100 * READ}


def test_counters_go_with_the_last_owner() -> None:
    queue = FairQueue()
    push(queue, "a", 10, 10)
    push(queue, "b", 10)
    serve(queue, 3)
    assert (queue._given, queue._waiting, queue._running, len(queue)) == ({}, {}, {}, 0)


def test_too_many_counters_are_those_of_who_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "REMEMBERED", 3)
    queue = FairQueue()
    push(queue, "stays", *[100] * 3)
    serve(queue, 1)
    for number in range(5):
        push(queue, f"guest {number}", 10)
    serve(queue, 5)
    assert len(queue._given) <= 4
    assert queue._given["stays"] >= 100
    (one,) = push(queue, "starts", 10)
    queue.charge(one, 70.0)
    queue.start(one)  # the last of its owner that waits: its counter stays
    assert queue._given["starts"] >= 80.0


def test_job_that_leaves_the_queue_leaves_nothing() -> None:
    queue = FairQueue()
    first, second = push(queue, "a", 10, 10)
    queue.discard(first)
    queue.discard(first)
    assert list(queue.fair_order()) == [second]
    queue.discard(second)
    queue.discard(job("nobody"))
    assert (len(queue), queue._waiting, queue._given) == (0, {}, {})
