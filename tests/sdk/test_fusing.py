"""Fusion as the client sees it, through every kind of client."""

from __future__ import annotations

from typing import Any

import pytest

from memos_sdk import AsyncMemory, Memory, errors

BOAT = "The old boat that lies all winter in the harbour of Tromsø is called Freya."
TOLD = (f"{BOAT} Its sail is crimson.", f"{BOAT} Its anchor is rusty.")
NOBODY = "01900000-0000-7000-8000-000000000000"


@pytest.mark.parametrize("name", ["fuse", "expand", "fuse_adapters"])
def test_both_clients_have_them(name: str) -> None:
    assert getattr(Memory, name).__doc__ == getattr(AsyncMemory, name).__doc__
    assert getattr(Memory, name).__annotations__ == getattr(AsyncMemory, name).__annotations__


def test_fused_expanded_and_taken_back(memory: Memory) -> None:
    ids = [memory.store(text, user_id="u").id for text in TOLD]
    (planned,) = memory.fuse(user_id="u", dry_run=True)
    assert (planned.action, planned.id, memory.moves(user_id="u")) == ("fuse", None, [])
    assert memory.fuse(dry_run=True) == []  # another user
    (begun,) = memory.fuse(user_id="u")
    result: Any = memory.wait(str(begun.job_id)).result
    (made,) = memory.moves(user_id="u")
    assert (made.id, made.cube_id) == (begun.id, result["cube_id"])
    sources = memory.expand(result["cube_id"], user_id="u")
    assert [(cube.id, cube.text, cube.state) for cube in sources] == list(
        zip(ids, TOLD, ["archived", "archived"], strict=True)
    )
    (hit,) = memory.recall("Freya", user_id="u", explain=True).hits
    assert hit.why is not None
    assert (hit.id, hit.why["fused"]) == (result["cube_id"], ids)
    with pytest.raises(errors.Conflict):
        memory.update(hit.id, text="x")
    (back,) = memory.undo(str(made.id), user_id="u")
    assert (back.action, back.undoes) == ("split", made.id)
    assert {hit.text for hit in memory.recall("Freya", user_id="u").hits} == set(TOLD)


def test_nothing_to_fuse_or_expand(memory: Memory) -> None:
    alone = memory.store("x")
    assert memory.fuse() == []
    assert memory.expand(alone.id) == []
    for unknown in (NOBODY, "x"):
        with pytest.raises(errors.NotFound):
            memory.expand(unknown)
    with pytest.raises(errors.NotFound):
        memory.expand(alone.id, user_id="somebody else")
    with pytest.raises(errors.InvalidInput):
        memory.fuse(user_id=" ")
    with pytest.raises(errors.NotFound):
        memory.fuse_adapters([NOBODY, NOBODY[:-1] + "1"])
    with pytest.raises(errors.InvalidInput):
        memory.fuse_adapters([NOBODY])
