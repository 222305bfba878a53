"""Fusion on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Memos = Callable[..., Any]
BOAT = "The old boat that lies all winter in the harbour is called Freya."
TOLD = (f"{BOAT} Its sail is crimson.", f"{BOAT} Its anchor is rusty.")
NOBODY = "01900000-0000-7000-8000-000000000000"


def test_fused_shown_and_taken_back(memos: Memos) -> None:
    for text in TOLD:
        memos("store", text)
    assert "1 would be fused" in memos("fuse", "--dry-run").out
    assert memos("moves", "--json").data == []
    (move,) = memos("fuse", "--json").data
    assert move["action"] == "fuse"
    assert "0 fused" in memos("fuse").out
    assert [cube["text"] for cube in memos("expand", move["cube_id"], "--json").data] == list(TOLD)
    assert "crimson" in memos("expand", move["cube_id"]).out
    assert "fused from 2" in " ".join(memos("recall", "Freya", "--explain").out.split())
    assert memos("undo", move["id"]).code == 0
    assert len(memos("list", "--json").data) == 2


def test_what_cannot_be_fused(memos: Memos) -> None:
    assert memos("fuse", "--json").data == []
    assert memos("expand", NOBODY).code == 3
    assert memos("adapters", "fuse", NOBODY).code == 2
    assert memos("adapters", "fuse", NOBODY, NOBODY[:-1] + "1").code == 3
