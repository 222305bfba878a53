"""Notes about everything that was stored, and one memory with its links."""

from __future__ import annotations

from typing import Any

from memos.config import OFF, Settings
from memos.demo.material import FRIENDS, READER
from memos_sdk import Memory

SHOWN = "Maya's cat"
MOST = 4


def write(memory: Memory) -> dict[str, Any]:
    """Wait until every note is written; return what came of it, and one memory with its note and links."""
    if Settings().notes == OFF:
        return {}
    counts: dict[str, int] = {}
    for user_id in (FRIENDS, READER):
        job = memory.wait(memory.refine(user_id=user_id))
        stats = memory.stats(user_id=user_id)
        found = {"notes": stats.memories, "merged": stats.merged, "links": stats.links}
        found["evolved"] = stats.versions - stats.memories - stats.merged
        counts = {name: counts.get(name, 0) + count for name, count in found.items()}
        assert job.over
    return {"counts": counts, "example": _example(memory)}


def _example(memory: Memory) -> dict[str, Any]:
    best = memory.recall(SHOWN, user_id=FRIENDS, top_k=1).hits[0]
    cube = memory.get(best.id)
    links = [
        {"type": link.type, "score": link.score, "text": memory.get(link.target_id).text}
        for link in memory.links(best.id)[:MOST]
    ]
    return {"text": cube.text, **cube.descriptor.model_dump(mode="json"), "links": links}
