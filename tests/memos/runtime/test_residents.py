"""What stays in the pool: the order in which it goes, and that every page is accounted for at all times."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from memos.activation.kv import KVShape
from memos.runtime.pool import PagePool, PageShape
from memos.runtime.residents import HALF_LIFE_S, Resident, Residents

PAGES = 24


def pool_of(pages: int = PAGES) -> PagePool:
    return PagePool(PageShape.of(KVShape(1, 1, 1, "float32"), [1]), pages, torch.device("cpu"))


@pytest.fixture
def pool() -> PagePool:
    return pool_of()


@pytest.fixture
def residents(pool: PagePool) -> Residents:
    return Residents(pool)


def used_once(residents: Residents, pool: PagePool, key: object, pages: int, seconds: float, **how: object) -> Resident:
    """Let something stay that a request made and ran with, and leave it idle."""
    one = residents.add(Resident(key, pool.take(pages), seconds, **how))  # type: ignore[arg-type]
    residents.hold([one])
    residents.let_go([one])
    return one


def order_of_going(residents: Residents, pool: PagePool) -> list[object]:
    """Make room page by page; return the keys as they go."""
    there = {one.key for one in residents._there.values()}
    gone: list[object] = []
    while residents.idle_pages:
        assert residents.make_room(pool.free + 1)
        gone += sorted(there - {one.key for one in residents._there.values()} - set(gone), key=str)
    return gone


def test_least_saved_by_the_page_goes_first(residents: Residents, pool: PagePool) -> None:
    used_once(residents, pool, "one a page", 10, 10.0)
    used_once(residents, pool, "three a page", 1, 3.0)
    used_once(residents, pool, "a quarter a page", 4, 1.0)
    used_once(residents, pool, "two a page", 2, 4.0)
    assert order_of_going(residents, pool) == ["a quarter a page", "one a page", "two a page", "three a page"]
    assert residents.evicted == 4
    assert pool.free == PAGES


def test_no_more_goes_than_has_to(residents: Residents, pool: PagePool) -> None:
    for key in range(6):
        used_once(residents, pool, key, 4, 1.0 + key)
    assert residents.make_room(5)
    assert (len(residents), residents.evicted, pool.free) == (4, 2, 8)
    assert residents.make_room(8)
    assert residents.evicted == 2


def test_use_counts_half_after_a_half_life() -> None:
    one = Resident("a", np.zeros(2, np.int32), 6.0)
    one.touch(now=0.0)
    assert one.price(0.0) == 3.0
    assert one.price(HALF_LIFE_S) == pytest.approx(1.5)
    assert one.cooled(10 * HALF_LIFE_S) == pytest.approx(2.0**-10)
    one.touch(now=HALF_LIFE_S)
    assert (one.heat, one.used_at) == (1.5, HALF_LIFE_S)


def test_used_lately_and_often_outlives_what_was_not(residents: Residents, pool: PagePool) -> None:
    old, often, new = (used_once(residents, pool, key, 2, 1.0) for key in ("old", "often", "new"))
    old.used_at -= 10 * HALF_LIFE_S
    for _ in range(3):
        residents.hold([often])
        residents.let_go([often])
    often.used_at -= 2 * HALF_LIFE_S  # four uses then are one now
    new.used_at -= 0.5 * HALF_LIFE_S
    assert order_of_going(residents, pool) == ["old", "new", "often"]


def test_made_is_used_once(residents: Residents, pool: PagePool) -> None:
    one = used_once(residents, pool, "a", 1, 1.0)
    assert one.heat == 1.0
    one.used_at -= 20 * HALF_LIFE_S
    residents.hold([one])
    assert one.heat == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("dearer", [0.0, 5.0])
def test_block_of_a_prompt_never_outlives_those_before_it(residents: Residents, pool: PagePool, dearer: float) -> None:
    """However much later than these it was made, and whatever a token took then."""
    blocks = [
        used_once(residents, pool, bytes([at]), 2, 1.0 + dearer * at, depth=at, before=bytes([at - 1]) if at else None)
        for at in range(4)
    ]
    for one in blocks:
        one.used_at += one.depth  # pieces of a prompt run one after another
    fork = used_once(residents, pool, b"fork", 2, 1.0, depth=2, before=blocks[1].key)
    fork.used_at += 100.0
    used_once(residents, pool, "dear", 2, 100.0)
    gone = order_of_going(residents, pool)
    assert gone[-1] == "dear"
    assert [gone.index(block.key) for block in blocks] == sorted([gone.index(block.key) for block in blocks])[::-1]
    assert gone.index(fork.key) < gone.index(blocks[1].key)


def test_blocks_in_use_stay_and_go_leaf_first_after_that(residents: Residents, pool: PagePool) -> None:
    root, leaf = (
        used_once(residents, pool, key, 2, 1.0, depth=depth, before=before)
        for key, depth, before in ((b"root", 0, None), (b"leaf", 1, b"root"))
    )
    residents.hold([root, leaf])
    assert not residents.make_room(PAGES)
    residents.let_go([root, leaf])
    assert order_of_going(residents, pool) == [b"leaf", b"root"]


def test_what_is_in_use_is_never_evicted(residents: Residents, pool: PagePool) -> None:
    cheap = used_once(residents, pool, "cheap", 10, 0.001)
    used_once(residents, pool, "dear", 4, 100.0)
    residents.hold([cheap])
    assert residents.idle_pages == 4
    assert not residents.make_room(15)  # not enough: so nothing goes
    assert (residents.evicted, len(residents)) == (0, 2)
    assert residents.make_room(14)
    assert residents.find("cheap") is cheap
    assert residents.find("dear") is None


def test_dropped_while_in_use_is_freed_with_its_last_user(residents: Residents, pool: PagePool) -> None:
    one = used_once(residents, pool, "a", 3, 1.0)
    residents.hold([one])
    residents.hold([one])
    residents.drop("a")
    assert residents.find("a") is None
    residents.let_go([one])
    assert (pool.free, residents.idle_pages) == (PAGES - 3, 0)
    residents.let_go([one])
    assert (pool.free, residents.idle_pages) == (PAGES, 0)


def test_what_takes_the_place_of_another_stays(residents: Residents, pool: PagePool) -> None:
    before = used_once(residents, pool, "a", 3, 1.0)
    residents.hold([before])
    after = used_once(residents, pool, "a", 5, 1.0)
    assert residents.find("a") is after
    residents.let_go([before])
    assert residents.find("a") is after
    assert (pool.free, residents.idle_pages, len(residents)) == (PAGES - 5, 5, 1)
    used_once(residents, pool, "a", 1, 1.0)
    assert (pool.free, residents.idle_pages) == (PAGES - 1, 1)


def test_all_that_was_made_with_something_goes(residents: Residents, pool: PagePool) -> None:
    for key, made in (("x", {"x"}), ("block", {"owner", "x", "y"}), ("other", {"owner", "y"}), ("free", set())):
        used_once(residents, pool, key, 2, 1.0, made_with=frozenset(made))
    residents.drop_made_with("x")
    assert [one for one in ("x", "block", "other", "free") if residents.find(one)] == ["other", "free"]
    residents.drop_made_with("owner")
    assert (len(residents), residents.idle_pages, residents.evicted) == (1, 2, 0)
    residents.drop("was never there")


class Run:
    """A request: pages of its own, and what it shares."""

    def __init__(self, own: np.ndarray, held: list[Resident]) -> None:
        self.own = own
        self.held = held
        self.shared = [one.pages for one in held]
        self.published = False


class PoolMachine(RuleBasedStateMachine):
    """Requests that come, load, publish and go, things that are dropped, room that is made: in any order."""

    keys = st.integers(0, 5)

    def __init__(self) -> None:
        super().__init__()
        self.pool = pool_of()
        self.residents = Residents(self.pool)
        self.runs: list[Run] = []

    @property
    def there(self) -> list[Resident]:
        return list(self.residents._there.values())

    @rule(own=st.integers(0, 6), wanted=st.sets(keys))
    def begin(self, own: int, wanted: set[int]) -> None:
        held = [one for key in sorted(wanted) if (one := self.residents.find(key)) is not None]
        self.residents.hold(held)
        if not self.residents.make_room(own):
            assert own > self.pool.free + self.residents.idle_pages
            self.residents.let_go(held)
            return
        run = Run(self.pool.take(own), held)
        for pages in run.shared:
            self.pool.share(pages)
        self.runs.append(run)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        run = self.runs.pop(data.draw(st.integers(0, len(self.runs) - 1)))
        for pages in (run.own, *run.shared):
            self.pool.give_back(pages)
        self.residents.let_go(run.held)

    @rule(key=keys, pages=st.integers(1, 6), seconds=st.floats(0.0, 10.0), digest=st.sampled_from("ab"))
    def load(self, key: int, pages: int, seconds: float, digest: str) -> None:
        if self.residents.make_room(pages):
            self.residents.add(Resident(key, self.pool.take(pages), seconds, made_with=frozenset(digest)))

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), key=keys)
    def publish(self, data: st.DataObject, key: int) -> None:
        run = data.draw(st.sampled_from(self.runs))
        if run.own.size and not run.published and self.residents.find(key) is None:
            run.published = True
            self.pool.share(run.own)
            made = self.residents.add(Resident(key, run.own, 1.0, depth=key, before=key - 1))
            self.residents.hold([made])
            run.held.append(made)

    @rule(key=keys)
    def drop(self, key: int) -> None:
        self.residents.drop(key)

    @rule(digest=st.sampled_from("ab"))
    def drop_made_with(self, digest: str) -> None:
        self.residents.drop_made_with(digest)
        assert not any(digest in one.made_with for one in self.there)

    @rule(pages=st.integers(0, PAGES))
    def make_room(self, pages: int) -> None:
        possible = pages <= self.pool.free + self.residents.idle_pages
        assert self.residents.make_room(pages) == possible
        assert self.pool.free >= pages or not possible

    @invariant()
    def every_page_is_free_idle_or_used(self) -> None:
        idle = [page for one in self.there if not one.users for page in one.pages.tolist()]
        used = {page for run in self.runs for page in run.own.tolist()}
        used |= {page for run in self.runs for one in run.held for page in one.pages.tolist()}
        assert self.residents.idle_pages == len(idle) == len(set(idle))
        assert not used & set(idle)
        assert self.pool.free + len(idle) + len(used) == self.pool.pages

    @invariant()
    def users_are_counted(self) -> None:
        held = [one for run in self.runs for one in run.held]
        assert all(one.users == held.count(one) for one in self.there)

    def teardown(self) -> None:
        for run in self.runs:
            for pages in (run.own, *run.shared):
                self.pool.give_back(pages)
            self.residents.let_go(run.held)
        assert self.residents.make_room(PAGES)
        assert self.pool.free == PAGES
        assert not len(self.residents)


def test_every_page_is_accounted_for_after_anything() -> None:
    run_state_machine_as_test(PoolMachine, settings=settings(stateful_step_count=60))
