"""The prefetching thread without a store or a model: what it reads, for whom, and what stops it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from memos.cube import Kind, Link, Scope
from memos.errors import StoreUnavailable
from memos.plaintext.recall import Hit
from memos.schedule.foresight.candidate import Candidate
from memos.schedule.foresight.prefetcher import MOST_USERS, MOST_WAITING, Prefetcher, key_of
from memos.schedule.foresight.reading import Known
from memos.schedule.foresight.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Iterator

ANN, BOB = Scope(user_id="ann"), Scope(user_id="bob")
NOW = datetime(2025, 5, 1, tzinfo=UTC)


def file(name: str, user: str, kind: Kind = Kind.ACTIVATION) -> Candidate:
    return Candidate(f"{user}.{name}", kind, f"key of {user}.{name}", 10, 10, frozenset({f"{user}.{name.lower()}"}))


class Shelf:
    """Stands for SQL and a tier: each user has the files A, B and C, made from the memories a, b and c."""

    def __init__(self) -> None:
        self.used: set[str] = set()
        self.fetched: list[tuple[str, str]] = []
        self.unusable: set[str] = set()
        self.fail = False
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()

    def known(self, scope: Scope, fingerprint: str, base: str, revision: int | None) -> Known | None:
        candidates = tuple(file(name, scope.user_id) for name in "ABC")
        return Known(1, candidates, ()) if revision is None else None

    def holds(self, candidate: Candidate, serving: Any) -> bool:
        return candidate.cube_id in self.used

    def fetch(self, scope: Scope, candidate: Candidate, serving: Any) -> Any:
        self.reached.set()
        assert self.gate.wait(30)
        if self.fail:
            raise StoreUnavailable("the disk is away")
        self.fetched.append((scope.user_id, candidate.cube_id))
        return candidate.cube_id

    def settle(self, value: Any) -> bool:
        return value not in self.unusable


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def staging() -> Staging:
    return Staging(30)


@pytest.fixture
def prefetcher(shelf: Shelf, staging: Staging, monkeypatch: pytest.MonkeyPatch) -> Iterator[Prefetcher]:
    identity = SimpleNamespace(base="base")
    serving = SimpleNamespace(fingerprint="f", loaded=SimpleNamespace(identity=identity))
    monkeypatch.setattr(Prefetcher, "_quiet", lambda self, _: not self._hurried)  # there is no model to be busy
    models: Any = SimpleNamespace(ready=serving)
    reading: Any = shelf
    opened = Prefetcher(reading, models, staging, {Kind.ACTIVATION: shelf})
    yield opened
    shelf.gate.set()
    opened.close()


def hit(cube_id: str, *links: str) -> Hit:
    made = [
        Link(source_id=cube_id, target_id=one, type="semantic", score=0.9, author="offline", created_at=NOW)
        for one in links
    ]
    return Hit(id=cube_id, text="", score=1.0, version=1, metadata={}, links=tuple(made), event_time=NOW)


def use(prefetcher: Prefetcher, *notes: str, scope: Scope = ANN) -> None:
    for note in notes:
        prefetcher.used(scope, [hit(f"{scope.user_id}.{note}")])
        assert prefetcher.wait(30)


def keys(scope: Scope, names: str) -> set[tuple[Kind, str]]:
    return {key_of(file(name, scope.user_id)) for name in names}


def test_what_is_likely_is_staged_and_what_is_in_use_is_not(
    prefetcher: Prefetcher, shelf: Shelf, staging: Staging
) -> None:
    shelf.used = {"ann.C"}
    use(prefetcher, "a", "b", "a")
    assert staging.keys == keys(ANN, "AB")
    assert staging.take(key_of(file("B", "ann")), ("default", "ann")) == "ann.B"


def test_links_say_what_is_read(prefetcher: Prefetcher, shelf: Shelf, staging: Staging) -> None:
    staging.limit = 10
    for _ in range(3):
        prefetcher.used(ANN, [hit("ann.a", "ann.c")])
        assert prefetcher.wait(30)
    assert staging.keys == keys(ANN, "C")


def test_users_are_kept_apart(prefetcher: Prefetcher, shelf: Shelf, staging: Staging) -> None:
    use(prefetcher, "a", "b")
    use(prefetcher, "a", "b", scope=BOB)
    assert all(cube_id.startswith(user) for user, cube_id in shelf.fetched)
    before = staging.counts(("default", "ann"))
    use(prefetcher, "c", "a", scope=BOB)
    assert staging.counts(("default", "ann")).bytes == before.bytes
    for number in range(MOST_USERS + 1):
        use(prefetcher, "a", scope=Scope(user_id=f"user {number}"))
    assert len(prefetcher._users) == MOST_USERS


def test_what_cannot_be_used_is_not_kept(prefetcher: Prefetcher, shelf: Shelf, staging: Staging) -> None:
    shelf.unusable = {"ann.A", "ann.B"}
    use(prefetcher, "a", "b", "a")
    assert staging.keys <= keys(ANN, "C")
    shelf.fail = True
    staging.clear()
    use(prefetcher, "b")
    assert staging.keys == frozenset()
    shelf.fail, shelf.unusable = False, set()
    use(prefetcher, "b")  # the thread goes on
    assert staging.keys >= keys(ANN, "A")


def test_what_is_forgotten_while_it_is_read_is_not_kept(prefetcher: Prefetcher, shelf: Shelf, staging: Staging) -> None:
    shelf.gate.clear()
    prefetcher.used(ANN, [hit("ann.a")])
    assert shelf.reached.wait(30)
    prefetcher.used(ANN, [hit("ann.b")])  # waits, and goes with the memory
    prefetcher.forget(ANN, ["ann.b"])
    staging.drop(keys(ANN, "ABC"))
    shelf.gate.set()
    assert prefetcher.wait(30)
    assert not staging.keys & keys(ANN, "B")
    assert "ann.b" not in repr([user.predictor._uses for user in prefetcher._users.values()])
    prefetcher.forget(ANN)
    assert ("default", "ann") not in prefetcher._users


def test_closing_waits_for_one_file_at_most(prefetcher: Prefetcher, shelf: Shelf, staging: Staging) -> None:
    shelf.gate.clear()
    prefetcher.used(ANN, [hit("ann.a")])
    assert shelf.reached.wait(30)
    for _ in range(MOST_WAITING + 9):
        prefetcher.used(ANN, [hit("ann.b")])
    assert len(prefetcher._waiting) == MOST_WAITING
    threading.Timer(0.05, shelf.gate.set).start()
    prefetcher.close()
    assert len(shelf.fetched) == 1
    assert staging.keys == frozenset()
    assert prefetcher._thread not in threading.enumerate()
    prefetcher.used(ANN, [hit("ann.a")])
    assert not prefetcher._waiting


@pytest.mark.parametrize("why", ["no model", "no room", "no hits"])
def test_nothing_is_started_where_nothing_could_be_done(prefetcher: Prefetcher, staging: Staging, why: str) -> None:
    if why == "no model":
        prefetcher._models = SimpleNamespace(ready=None)  # type: ignore[assignment]
    elif why == "no room":
        staging.limit = 0
    prefetcher.used(ANN, [] if why == "no hits" else [hit("ann.a")])
    assert prefetcher._thread is None
