"""Heat: counted without a write per read, faded by half with every half life."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from memos.clock import now_us
from memos.config import Settings
from memos.cube import Scope
from memos.engine import MemoryOS
from memos.schedule.heat import Cooling, HeatLog
from memos.store import namespaces
from memos.store.behaviour import BehaviourRepository

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from memos.embedding.base import Embedder

ANN, BOB = Scope(user_id="ann"), Scope(user_id="bob")
DAY = 86_400 * 10**6


def test_heat_halves_with_every_half_life() -> None:
    cooling = Cooling.days(2)
    assert cooling.heat(8.0, 100, 100) == 8.0
    assert cooling.heat(8.0, 0, 2 * DAY) == 4.0
    assert cooling.heat(8.0, 0, 6 * DAY) == 1.0
    assert cooling.heat(8.0, None, DAY) == 0.0
    assert cooling.heat(8.0, DAY, 0) == 8.0  # a clock that was set back heats nothing


def test_steady_uses_are_expected_to_go_on() -> None:
    cooling, heat, an_hour = Cooling.days(1), 0.0, DAY // 24
    for _ in range(24 * 20):
        heat = cooling.heat(heat, 0, an_hour) + 1
    assert cooling.uses(heat, 86_400) == pytest.approx(24, rel=0.02)


def test_uses_are_written_together_and_survive(data_folder: Path, embedder: Embedder) -> None:
    with MemoryOS(Settings(home=data_folder), embedder) as engine:
        cat, dog = engine.store_many(ANN, [{"text": "the cat sleeps"}, {"text": "a dog barks"}])
        (other,) = engine.store_many(BOB, [{"text": "the cat of somebody else"}])
        revision = revision_of(engine, ANN)
        before = now_us()
        for _ in range(3):
            engine.recall(ANN, "cat", top_k=1)
        assert engine.get("default", cat.id).behaviour.recall_count == 0  # gathered, not written
    with MemoryOS(Settings(home=data_folder), embedder) as engine:
        counted = engine.get("default", cat.id).behaviour
        assert counted.recall_count == 3
        assert counted.heat == pytest.approx(3)
        assert counted.last_recalled_at is not None
        assert counted.last_recalled_at.timestamp() * 1e6 >= before - 1
        assert engine.get("default", dog.id).behaviour == engine.get("default", other.id).behaviour
        assert engine.get("default", other.id).behaviour.recall_count == 0
        assert revision_of(engine, ANN) == revision  # no index has anything to follow


def test_heat_adds_up_over_flushes_and_processes(engine: MemoryOS) -> None:
    (cat,) = engine.store_many(ANN, [{"text": "the cat sleeps"}])
    cooling = Cooling.days(7)
    first, second = HeatLog(engine.database, cooling), HeatLog(engine.database, cooling)
    first.count(ANN, [cat.id, cat.id])
    second.count(ANN, [cat.id])
    second.close()
    first.close()
    first.count(ANN, [cat.id])  # closed: nothing is gathered that nobody would write
    assert engine.get("default", cat.id).behaviour.recall_count == 3
    heat, as_of = heat_of(engine, ANN, [cat.id])[0]
    assert heat == pytest.approx(3, rel=1e-6)
    assert cooling.heat(heat, as_of, (as_of or 0) + 7 * DAY) == pytest.approx(1.5, rel=1e-6)


def test_uses_of_what_was_forgotten_are_dropped(engine: MemoryOS) -> None:
    cat, dog = engine.store_many(ANN, [{"text": "the cat sleeps"}, {"text": "a dog barks"}])
    log = HeatLog(engine.database, Cooling.days(7))
    log.count(ANN, [cat.id, dog.id, "0" * 36])
    log.count(Scope(user_id="nobody"), [cat.id])
    log.count(BOB, [dog.id])  # somebody else's: whatever counts, it reaches no other namespace
    engine.forget("default", cat.id)
    log.close()
    assert engine.get("default", dog.id).behaviour.recall_count == 1


@pytest.mark.parametrize("count", [1, 1_200])
def test_any_number_is_written(engine: MemoryOS, count: int) -> None:
    cubes = engine.store_many(ANN, [{"text": f"memory {number}"} for number in range(count)])
    log = HeatLog(engine.database, Cooling.days(7))
    log.count(ANN, [cube.id for cube in cubes])
    log.flush()
    assert math.fsum(heat for heat, _ in heat_of(engine, ANN, [cube.id for cube in cubes])) == count
    log.close()


def heat_of(engine: MemoryOS, scope: Scope, ids: Sequence[str]) -> list[tuple[float, int | None]]:
    with engine.database.read() as connection:
        namespace = namespaces.find(connection, scope)
        assert namespace is not None
        return list(BehaviourRepository(connection, namespace.id).of(ids).values())


def revision_of(engine: MemoryOS, scope: Scope) -> int:
    with engine.database.read() as connection:
        namespace = namespaces.find(connection, scope)
        assert namespace is not None
        return namespace.revision
