"""JSON values as memories: their text is what recall finds, and the value itself comes back unchanged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from memos_sdk import Memory
from memos_sdk.types import Hit, MemCube

#: Bytes of a value, as JSON, that metadata has room for beside its other fields: a server takes 64 KiB by default.
ROOM = 56 << 10
#: What metadata may not hold: NUL, as JSON writes it, and lone surrogates.
_REFUSED = re.compile("\\\\u0000|[\ud800-\udfff]")
_TEXT_FIELDS = ("text", "content", "memory")
_PAGE = 500


def readable(value: Any) -> str | None:
    """Return what a person would read in a value: its text, content or memory, a list's parts one per line."""
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, Mapping):
        return next((text for name in _TEXT_FIELDS if (text := readable(value.get(name)))), None)
    if isinstance(value, list):
        return "\n".join(text for part in value if (text := readable(part))) or None
    return None


def memory_of(value: Any, text: str | None, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the text and metadata that a value is stored as; without a text of its own, that is compact JSON.

    A value that metadata has no room for becomes the text, with ``in_text`` in its metadata.
    """
    encoded = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    refused = _REFUSED.search(encoded)
    if refused or len(encoded.encode()) > ROOM:
        return {"text": json.dumps(value) if refused else encoded, "metadata": {**metadata, "in_text": True}}
    return {"text": text or encoded, "metadata": {**metadata, "value": value}}


def value_of(memory: MemCube | Hit) -> Any:
    """Return the value that :func:`memory_of` made a memory of."""
    return json.loads(memory.text or "") if memory.metadata.get("in_text") else memory.metadata["value"]


def every(memory: Memory, **scope: Any) -> Iterator[MemCube]:
    """Yield all memories of a user, agent or run in the order they were stored, a page at a time."""
    after = None
    while page := memory.list(**scope, limit=_PAGE, after=after):
        yield from page
        after = page[-1].id
