"""One memory is forgotten, and looked for everywhere it could still be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from memos.demo.material import FRIENDS, Batch, reference
from memos.demo.steps import TOP, seen
from memos_sdk import Memory
from memos_sdk.errors import NotFound

QUESTION = "How much did Tom get for his banjo?"
PLACE = "D7:14"
_FRAGMENT, _STEP = 24, 8


def fragments(text: str, others: Iterable[str]) -> list[bytes]:
    """Cut ``text`` into overlapping pieces that stand in no other text: any stretch of 31 characters holds one."""
    last = max(len(text) - _FRAGMENT, 0)
    pieces = {text[start : start + _FRAGMENT] for start in (*range(0, last, _STEP), last)}
    known = list(others)
    return [piece.encode() for piece in sorted(pieces) if not any(piece in one for one in known)]


def traces(folder: Path, pieces: Iterable[bytes]) -> dict[str, int]:
    """Return how many of the pieces each file of a folder holds, files without any left out."""
    wanted = list(pieces)
    counts = {
        str(path.relative_to(folder)): sum(map(path.read_bytes().__contains__, wanted))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return {name: count for name, count in counts.items() if count}


def unique_fragments(batches: Iterable[Batch]) -> list[bytes]:
    """Return pieces of the memory to be forgotten that no other memory holds."""
    texts = {reference(item["metadata"]): str(item["text"]) for batch in batches for item in batch.items}
    return fragments(texts.pop(PLACE), texts.values())


def forget(memory: Memory, folder: Path, pieces: list[bytes]) -> dict[str, Any]:
    """Forget the memory at :data:`PLACE`; say where it was before and where it still is."""
    before = memory.recall(QUESTION, user_id=FRIENDS, top_k=TOP).hits
    ranks = {reference(hit.metadata): rank for rank, hit in enumerate(before, start=1)}
    named = {"metadata.dia_id": PLACE}
    found = memory.recall(QUESTION, user_id=FRIENDS, top_k=1, filters=named).hits[0]
    files_before = traces(folder, pieces)
    receipt = memory.forget(found.id, user_id=FRIENDS)
    return {
        "question": QUESTION,
        "memory": seen(found, QUESTION),
        "rank_before": ranks.get(PLACE),
        "fragments": len(pieces),
        "files_before": files_before,
        "receipt": receipt.model_dump(mode="json"),
        "after": {**remains(memory, found.id), "files": traces(folder, pieces)},
    }


def remains(memory: Memory, cube_id: str) -> dict[str, bool]:
    """Return which calls still know a memory."""
    hits = memory.recall(QUESTION, user_id=FRIENDS, top_k=TOP).hits
    return {
        "recall": any(hit.id == cube_id for hit in hits),
        "get": _known(lambda: memory.get(cube_id, user_id=FRIENDS)),
        "history": _known(lambda: memory.history(cube_id, user_id=FRIENDS)),
    }


def _known(call: Callable[[], object]) -> bool:
    try:
        call()
    except NotFound:
        return False
    return True
