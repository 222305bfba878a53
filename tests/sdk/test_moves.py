"""Moves between tiers as the client sees them: the same fields as the engine's, and the same errors."""

from __future__ import annotations

import pytest

from memos.schedule.moving.move import Move
from memos_sdk import AsyncMemory, Memory, errors, types


def test_fields_are_those_of_the_engine() -> None:
    assert types.Move.model_fields.keys() == Move.model_fields.keys()


@pytest.mark.parametrize("name", ["plan", "moves", "undo"])
def test_both_clients_have_them(name: str) -> None:
    assert getattr(Memory, name).__doc__ == getattr(AsyncMemory, name).__doc__
    assert getattr(Memory, name).__annotations__ == getattr(AsyncMemory, name).__annotations__


def test_store_that_was_never_asked_has_none(memory: Memory) -> None:
    memory.store("x")
    assert memory.plan() == memory.plan(dry_run=False) == memory.moves() == []
    with pytest.raises(errors.NotFound):
        memory.undo("nothing")
    with pytest.raises(errors.InvalidInput):
        memory.plan(user_id=" ")
