"""What has passed its time goes for good, what is held stays, and both are on record."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from memos.clock import DAY_US, now_us
from memos.config import Settings
from memos.cube import MemCube, Scope, State
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import InvalidInput, LegalHold, NotFound, StoreUnavailable
from memos.schedule.expiry import Expired, expire
from memos.schedule.keeping import MOST_DAYS
from memos.schedule.ticker import Ticker
from memos.store.jobs import FINAL

ANN, BOB = Scope(user_id="ann"), Scope(user_id="bob")
Later = Callable[[int], None]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    """Let it be some days later for whatever deletes what is due."""
    return lambda days: monkeypatch.setattr("memos.schedule.expiry.now_us", lambda: now_us() + days * DAY_US)


def store(engine: MemoryOS, *texts: str, scope: Scope = ANN, **more: Any) -> list[MemCube]:
    return engine.store_many(scope, [{"text": text, **more} for text in texts])


def texts(engine: MemoryOS, scope: Scope = ANN) -> list[str | None]:
    return [cube.text for cube in engine.list(scope)]


def audited(engine: MemoryOS, *actions: str) -> list[tuple[str, str | None, Any]]:
    with engine.database.read() as connection:
        rows = connection.execute(sa.text("SELECT action, cube_id, detail FROM audit ORDER BY id"))
        return [tuple(row) for row in rows if row.action in actions]


def tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


# ------------------------------------------------------------ expiry


def test_what_has_expired_is_deleted(engine: MemoryOS, later: Later) -> None:
    (gone,) = store(engine, "for a day", expires_at=tomorrow())
    store(engine, "for good")
    store(engine, "for a day", scope=BOB, expires_at=tomorrow())
    assert engine.expire() == Expired()
    later(2)
    assert engine.expire() == Expired(expired=2)
    assert (texts(engine), texts(engine, BOB)) == (["for good"], [])
    with pytest.raises(NotFound):
        engine.get("default", gone.id)
    assert engine.stats(ANN).versions == 1
    assert [action for action, _, _ in audited(engine, "expire")] == ["expire"] * 2
    assert engine.expire() == Expired()


def test_batches_until_nothing_is_due(engine: MemoryOS, later: Later) -> None:
    store(engine, *(f"number {n}" for n in range(23)), expires_at=tomorrow())
    later(2)
    sizes: list[int] = []

    def delete(scope: Scope, now: int, limit: int) -> dict[str, int]:
        deleted = engine._forgetter.expire(scope, now, limit)
        sizes.append(deleted["expire"])
        return deleted

    finished: list[Scope] = []
    assert expire(engine.database, delete, finished.append, batch=10) == Expired(expired=23)
    assert (sizes, finished) == ([10, 10, 3, 0], [ANN])


def test_old_memories_go_unless_they_are_pinned(engine: MemoryOS, later: Later) -> None:
    (pinned, _) = store(engine, "pinned", "old")
    store(engine, "of somebody else", scope=BOB)
    with engine.database.write() as connection:
        connection.execute(sa.text("UPDATE cubes SET pinned = true WHERE id = :id"), {"id": pinned.id})
    assert engine.retention(ANN).days is None
    assert engine.retain(ANN, 30) == engine.retention(ANN)
    later(29)
    assert engine.expire() == Expired()
    later(31)
    assert engine.expire() == Expired(retained=1)
    assert (texts(engine), texts(engine, BOB)) == (["pinned"], ["of somebody else"])
    assert engine.retain(ANN, 0).days is None
    later(400)
    store(engine, "new")
    assert engine.expire() == Expired()
    assert [detail for _, _, detail in audited(engine, "retention")] == ['{"days": 30}', '{"days": 0}']


def test_days_that_are_none(engine: MemoryOS) -> None:
    wrong: tuple[Any, ...] = (-1, MOST_DAYS + 1, 1.5, "30", True, None)
    for days in wrong:
        with pytest.raises(InvalidInput, match="days must be"):
            engine.retain(ANN, days)


def test_what_an_old_memory_stood_for_comes_back(data_folder: Path, embedder: Embedder, later: Later) -> None:
    """Somebody said it again lately: that is not old."""
    with MemoryOS(Settings(home=data_folder, notes="offline"), embedder) as engine:
        (old,) = store(engine, "I live in Rome.")
        with engine.database.write() as connection:
            connection.execute(sa.text("UPDATE cubes SET created_at = created_at - :us"), {"us": 40 * DAY_US})
        (again,) = store(engine, "I live in Rome")
        written(engine)
        assert engine.get("default", again.id).state is State.ARCHIVED
        engine.retain(ANN, 30)
        assert engine.expire() == Expired(retained=1)
        written(engine)
        back = engine.get("default", again.id)
        assert (back.state, back.provenance.remark) == (State.ACTIVATED, None)
        assert [cube.id for cube in engine.list(ANN)] == [again.id]
        assert [hit.id for hit in engine.recall(ANN, "Where do I live?").hits] == [again.id]
        with pytest.raises(NotFound):
            engine.get("default", old.id)


def written(engine: MemoryOS) -> None:
    job = engine.refine(ANN)
    while engine.job("default", job.id).state not in FINAL:
        threading.Event().wait(0.01)


def test_it_is_done_when_a_store_is_opened(data_folder: Path, embedder: Embedder, later: Later) -> None:
    with MemoryOS(Settings(home=data_folder), embedder) as engine:
        store(engine, "for a day", expires_at=tomorrow())
    later(2)
    with MemoryOS(Settings(home=data_folder), embedder) as engine:
        while engine.list(ANN):
            threading.Event().wait(0.01)


def test_ticker_goes_on_after_an_outage() -> None:
    calls: list[int] = []
    twice = threading.Event()

    def fail_first() -> None:
        calls.append(len(calls))
        if len(calls) == 1:
            raise StoreUnavailable("down")
        twice.set()

    ticker = Ticker([fail_first], 0.01)
    ticker.start()
    twice.wait()
    ticker.stop()
    Ticker([fail_first], 0.01).stop()  # one that never began


# ------------------------------------------------------------ holds


def test_held_memory_stays(engine: MemoryOS, later: Later) -> None:
    kept, free = store(engine, "kept", "free", run_id="r", expires_at=tomorrow())
    hold = engine.hold("default", kept.id, reason="case 1")
    assert (hold.cube_id, hold.user_id, hold.reason) == (kept.id, "ann", "case 1")
    engine.retain(ANN, 1)
    deletions: tuple[Callable[[], object], ...] = (
        lambda: engine.forget("default", kept.id),
        lambda: engine.forget_all(ANN),
        lambda: engine.forget_all(Scope(user_id="ann", run_id="r")),
    )
    for refused in deletions:
        with pytest.raises(LegalHold, match="release the hold first") as caught:
            refused()
        assert caught.value.extra["holds"] == [hold.id]
    later(2)
    assert engine.expire() == Expired(expired=1)
    assert engine.get("default", kept.id) == kept
    with pytest.raises(NotFound):
        engine.get("default", free.id)
    assert engine.release("default", hold.id) == hold
    assert engine.expire() == Expired(expired=1)
    assert [(action, cube_id) for action, cube_id, _ in audited(engine, "hold", "release")] == [
        ("hold", kept.id),
        ("release", kept.id),
    ]
    assert "case" not in str(audited(engine, "hold", "release"))


def test_held_user_keeps_everything(engine: MemoryOS, later: Later) -> None:
    (cube,) = store(engine, "kept", expires_at=tomorrow())
    one, two = engine.hold("default", user_id="ann"), engine.hold("default", user_id="ann")
    assert engine.holds(ANN) == [one, two]
    later(2)
    assert engine.expire() == Expired()
    engine.release("default", one.id)
    with pytest.raises(LegalHold):
        engine.forget("default", cube.id)
    engine.release("default", two.id)
    assert engine.forget("default", cube.id).removed["cubes"] == 1
    assert engine.holds(ANN) == []


def test_what_says_the_same_as_a_held_memory_stays(data_folder: Path, embedder: Embedder) -> None:
    """It would go along with what stands for it."""
    with MemoryOS(Settings(home=data_folder, notes="offline"), embedder) as engine:
        standing, duplicate = (store(engine, text)[0] for text in ("I live in Rome.", "I live in Rome"))
        written(engine)
        engine.hold("default", duplicate.id)
        with pytest.raises(LegalHold, match=duplicate.id):
            engine.forget("default", standing.id)


def test_holds_that_cannot_be(engine: MemoryOS) -> None:
    (cube,) = store(engine, "x")
    with pytest.raises(NotFound):
        engine.hold("default", "01900000-0000-7000-8000-000000000000")
    with pytest.raises(NotFound):
        engine.hold("other", cube.id)
    with pytest.raises(NotFound):
        engine.hold("default", cube.id, user_id="bob")
    with pytest.raises(InvalidInput):
        engine.hold("default", cube.id, reason=" ")
    hold = engine.hold("default", cube.id)
    for tenant, hold_id in (("other", hold.id), ("default", "x"), ("default", cube.id)):
        with pytest.raises(NotFound, match="no legal hold"):
            engine.release(tenant, hold_id)
