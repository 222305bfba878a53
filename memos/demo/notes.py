"""Notes about everything that was stored, and one memory with its links."""

from __future__ import annotations

from typing import Any

from memos.config import OFF, Settings
from memos.demo.material import FRIENDS, READER
from memos_sdk import Memory

SHOWN = "Maya's cat"
MOST = 4


def settle(memory: Memory) -> None:
    """Wait until every note is written."""
    if Settings().notes != OFF:
        for user_id in (FRIENDS, READER):
            memory.wait(memory.refine(user_id=user_id))


def written(memory: Memory) -> dict[str, Any]:
    """Return what came of the notes, and one memory with its note and links; nothing where notes are off."""
    settle(memory)
    if Settings().notes == OFF:
        return {}
    spaces = [memory.stats(user_id=user_id) for user_id in (FRIENDS, READER)]
    counts = {
        "notes": sum(space.memories for space in spaces),
        "merged": sum(space.merged for space in spaces),
        "links": sum(space.links for space in spaces),
        "evolved": sum(space.versions - space.memories - space.merged for space in spaces),
    }
    return {"counts": counts, "example": _example(memory)}


def _example(memory: Memory) -> dict[str, Any]:
    best = memory.recall(SHOWN, user_id=FRIENDS, top_k=1).hits[0]
    cube = memory.get(best.id)
    links = [
        {"type": link.type, "score": link.score, "text": memory.get(link.target_id).text}
        for link in memory.links(best.id)[:MOST]
    ]
    return {"text": cube.text, **cube.descriptor.model_dump(mode="json"), "links": links}
