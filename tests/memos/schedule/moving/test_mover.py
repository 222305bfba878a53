"""Moves on a real store and a real model: planned from uses, carried out by jobs, recorded, taken back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import torch

from memos.config import Settings
from memos.cube import Scope, State
from memos.engine import MemoryOS
from memos.errors import Conflict, NotFound
from memos.parametric.adapter import Adapter, Factors
from memos.store.jobs import FINAL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memos.embedding.base import Embedder
    from memos.runtime.host import ModelHost
    from memos.schedule.moving.move import Move

ANN, BOB = Scope(user_id="ann"), Scope(user_id="bob")
HARBOUR = "The harbour of Tromsø lies behind the long breakwater, where old boats are tied up for the winter months."
GARDEN = "The garden behind the yellow house has four apple trees, a small pond, and a bench that nobody ever sits on."
#: Long enough that an adapter takes fewer bytes than its file.
BOAT = "Ann's boat is the Wagtail. It has been tied up at the long jetty behind the fish hall since that spring. " * 8


@pytest.fixture
def engine(data_folder: Path, embedder: Embedder, shallow_models: ModelHost) -> Iterator[MemoryOS]:
    settings = Settings(home=data_folder, bundle_min_tokens=16)
    with MemoryOS(settings, embedder, shallow_models) as opened:
        opened._mover._prefill_s = 2e-3  # a few layers are too fast for any file to be worth it
        yield opened


def used(engine: MemoryOS, text: str, times: int, scope: Scope = ANN) -> str:
    (cube,) = engine.store_many(scope, [{"text": text, "event_time": "2025-05-01"}])
    for _ in range(times):
        engine.recall(scope, text, top_k=1)
    return cube.id


def done(engine: MemoryOS, moves: list[Move]) -> list[str]:
    """Wait for the jobs of moves; return the cubes they made."""
    made = []
    for move in moves:
        if move.job_id is not None:
            while (job := engine.job("default", move.job_id)).state not in FINAL:
                time.sleep(0.01)
            assert job.result is not None, job.error
            made.append(job.result["cube_id"])
    return made


def test_move_takes_the_codec_that_the_user_chose(engine: MemoryOS) -> None:
    engine.set_kv_settings(ANN, codec="snapkv:0.5+int8")
    for scope in (ANN, BOB):
        used(engine, HARBOUR, 8, scope)
        done(engine, list(engine.plan(scope, dry_run=False)))
    (of_ann,), (of_bob,) = engine.kv_files(ANN), engine.kv_files(BOB)
    assert (of_ann.codec, of_bob.codec) == ("snapkv:0.5+int8", "raw")
    assert of_ann.raw_bytes == of_bob.raw_bytes > of_bob.tokens
    assert of_ann.bytes < of_bob.bytes
    assert of_ann.loss > of_bob.loss == 0


def test_what_is_used_is_moved_up_and_back(engine: MemoryOS) -> None:
    assert engine.plan(ANN) == []
    harbour = used(engine, HARBOUR, 8)
    engine.move("default", used(engine, GARDEN, 0), State.ARCHIVED)  # another kind of move
    used(engine, HARBOUR, 8, BOB)
    (planned,) = engine.plan(ANN)
    assert [source.cube_id for source in planned.sources] == [harbour]
    assert (planned.id, engine.moves(ANN), engine.kv_files(ANN)) == (None, [], [])  # nothing happened yet
    assert "harbour" not in planned.reason.lower()
    moves = list(engine.plan(ANN, dry_run=False))
    (cube_id,) = done(engine, moves)
    assert [file.cube_id for file in engine.kv_files(ANN)] == [cube_id]
    assert engine.kv_files(BOB) == []
    assert engine.plan(ANN) == []
    (recorded,) = engine.moves(ANN)
    assert recorded.model_copy(update={"created_at": None}) == moves[0]
    assert recorded.created_at is not None
    (back,) = engine.undo(ANN, str(recorded.id))
    assert engine.kv_files(ANN) == []
    assert (back.cube_id, back.undoes) == (cube_id, recorded.id)
    (forth,) = engine.undo(ANN, str(back.id))
    done(engine, [forth])
    assert len(engine.kv_files(ANN)) == 1
    assert [move.undoes for move in engine.moves(ANN)] == [None, recorded.id, back.id]


def test_moves_are_taken_back_once_and_by_their_owner(engine: MemoryOS) -> None:
    used(engine, HARBOUR, 8)
    moves = list(engine.plan(ANN, dry_run=False))
    done(engine, moves)
    move_id = str(moves[0].id)
    for whose, wrong in ((BOB, move_id), (Scope(tenant="other", user_id="ann"), move_id), (ANN, "nothing")):
        with pytest.raises(NotFound):
            engine.undo(whose, wrong)
    engine.undo(ANN, move_id)
    with pytest.raises(Conflict, match="taken back before"):
        engine.undo(ANN, move_id)


def test_what_is_under_way_is_not_planned_again(engine: MemoryOS) -> None:
    used(engine, HARBOUR, 8)
    first = list(engine.plan(ANN, dry_run=False))
    second = list(engine.plan(ANN, dry_run=False))
    assert len(first) == 1
    assert second == []
    done(engine, first)


def test_moves_by_themselves_where_that_is_wanted(
    data_folder: Path, embedder: Embedder, shallow_models: ModelHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memos.engine.UPKEEP_S", 0.01)
    settings = Settings(home=data_folder, bundle_min_tokens=16, plan_hours=1e-6)
    with MemoryOS(settings, embedder, shallow_models) as engine:
        engine._mover._prefill_s = 2e-3
        used(engine, HARBOUR, 8, BOB)
        while not engine.kv_files(BOB):
            time.sleep(0.01)
        assert [move.action for move in engine.moves(BOB)] == ["promote"]


def test_promotion_that_made_nothing_is_not_taken_back(engine: MemoryOS) -> None:
    harbour = used(engine, HARBOUR, 8)
    planned = engine.plan(ANN)
    done(engine, [planned[0].model_copy(update={"job_id": engine.promote("default", [harbour], to="activation").id})])
    (again,) = engine._mover.carry_out(ANN, planned)
    done(engine, [again])
    with pytest.raises(Conflict, match="made nothing"):
        engine.undo(ANN, str(again.id))
    assert len(engine.kv_files(ANN)) == 1


def test_receipts_hold_whatever_was_moved(engine: MemoryOS) -> None:
    harbour = used(engine, HARBOUR, 8)
    done(engine, list(engine.plan(ANN, dry_run=False)))
    assert engine.verify_receipt("default", engine.forget("default", harbour).model_dump(mode="json")).valid


def test_forgotten_memories_take_their_files_and_leave_reasons_without_content(engine: MemoryOS) -> None:
    harbour = used(engine, HARBOUR, 8)
    moves = list(engine.plan(ANN, dry_run=False))
    done(engine, moves)
    engine.forget("default", harbour)
    with pytest.raises(Conflict, match="came to nothing"):
        engine.undo(ANN, str(moves[0].id))  # the file is gone with what it was made from
    assert engine.plan(ANN) == []


def test_less_room_gives_up_what_is_worth_least(
    data_folder: Path, embedder: Embedder, shallow_models: ModelHost
) -> None:
    with MemoryOS(Settings(home=data_folder, bundle_min_tokens=16), embedder, shallow_models) as engine:
        ids = [used(engine, HARBOUR, 9), used(engine, GARDEN, 4)]
        jobs = [engine.promote("default", [cube_id], to="activation") for cube_id in ids]
        while any(engine.job("default", job.id).state not in FINAL for job in jobs):
            time.sleep(0.01)
        harbour, garden = engine.kv_files(ANN)
    cap = harbour.bytes + garden.bytes - 1
    with MemoryOS(Settings(home=data_folder, kv_bytes=cap), embedder, shallow_models) as engine:
        engine._mover._prefill_s = 2e-3
        (move,) = engine.plan(ANN, dry_run=False)
        assert (move.action, move.cube_id) == ("demote", garden.cube_id)
        assert [file.cube_id for file in engine.kv_files(ANN)] == [harbour.cube_id]
        engine.get("default", ids[1])  # the memory stays


def test_what_is_used_very_often_is_trained_and_then_needs_no_file(
    data_folder: Path, embedder: Embedder, shallow_models: ModelHost
) -> None:
    """The plan is real, the adapter is of random numbers: training takes minutes."""
    settings = Settings(home=data_folder, bundle_min_tokens=16, plan_adapters=True)
    with MemoryOS(settings, embedder, shallow_models) as engine:
        engine._mover._prefill_s = 2e-3
        fact = {"text": BOAT, "metadata": {"subject": "Ann", "attribute": "boat", "value": "Wagtail"}}
        (cube,) = engine.store_many(ANN, [{**fact, "event_time": "2025-05-01"}])
        engine._heat.count(ANN, [cube.id] * 8)
        done(engine, list(engine.plan(ANN, dry_run=False)))
        (file,) = engine.kv_files(ANN)
        assert engine.plan(ANN) == []  # a file is enough for that
        engine._heat.count(ANN, [file.cube_id] * 20_000)
        (move,) = engine.plan(ANN)
        assert (move.action, move.tier, [one.cube_id for one in move.sources]) == ("promote", "parametric", [cube.id])
        sources, made = [(cube.id, cube.version)], small_adapter(shallow_models)
        report = {"gate": {"passed": True}, "provenance": {"options": {}}}
        adapter = engine.parametric.publish(ANN, made, sources=sources, **report)  # type: ignore[arg-type]
        (given_up,) = engine.plan(ANN, dry_run=False)
        assert (given_up.action, given_up.tier, given_up.cube_id) == ("demote", "activation", file.cube_id)
        assert (engine.kv_files(ANN), engine.plan(ANN)) == ([], [])
        assert [one.cube_id for one in engine.adapters(ANN)] == [adapter]
    with MemoryOS(settings.model_copy(update={"adapter_bytes": 0}), embedder, shallow_models) as engine:
        (back,) = [move for move in engine.plan(ANN, dry_run=False) if move.tier == "parametric"]
        assert (back.action, back.cube_id, engine.adapters(ANN)) == ("demote", adapter, [])
        assert engine.get("default", cube.id).text == BOAT  # the memory was never anywhere else


def small_adapter(models: ModelHost) -> Adapter:
    loaded = models.serving().loaded
    width, inner = loaded.model.config.hidden_size, loaded.model.config.intermediate_size
    factors = {(0, "mlp.up_proj"): Factors(torch.ones(1, width), torch.ones(inner, 1))}
    return Adapter(loaded.identity.base, factors)
