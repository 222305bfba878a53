"""The gate every memory passes before it is stored: types, text, metadata, times, names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from memos.clock import parse_time
from memos.config import Settings
from memos.cube import MAX_NAME_LENGTH, NewMemory, Scope, check_name
from memos.errors import InvalidInput, InvalidText, MemosError

_FIELDS = frozenset({"text", "metadata", "event_time", "expires_at", "agent_id", "run_id", "infer", "source"})
_SURROGATE = re.compile("[\ud800-\udfff]")
#: NUL as JSON writes it: after an even number of backslashes, which stand for themselves.
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
#: Serialisers recurse; some refuse what is deeper than a few hundred levels.
MAX_METADATA_DEPTH = 64
_SPEAKER = re.compile(r"\s*([^\W\d_][\w .'’-]{0,39}?)\s*:\s")


def check_memory(item: Any, scope: Scope, settings: Settings) -> NewMemory:
    """Return a checked :class:`NewMemory` from a mapping with ``text`` and the optional fields of ``store``.

    ``agent_id`` and ``run_id`` of the scope hold where the item names none. Raises :class:`InvalidInput`.
    """
    if not isinstance(item, Mapping):
        raise InvalidInput(f"a memory must be an object with a text, not {type(item).__name__}")
    unknown = sorted(str(key) for key in item if key not in _FIELDS)
    if unknown:
        raise InvalidInput(f"unknown field {unknown[0]!r}; a memory has {', '.join(sorted(_FIELDS))}")
    text = check_text(item.get("text"), settings.max_text_bytes)
    infer = item.get("infer", True)
    if not isinstance(infer, bool):
        raise InvalidInput(f"infer must be true or false, not {infer!r}")
    expires_at = parse_time(item.get("expires_at"), "expires_at")
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise InvalidInput(f"expires_at lies in the past: {expires_at.isoformat()}")
    return NewMemory.model_construct(
        text=text,
        metadata=check_metadata(item.get("metadata"), settings.max_metadata_bytes),
        event_time=parse_time(item.get("event_time"), "event_time"),
        expires_at=expires_at,
        agent_id=_name(item.get("agent_id", scope.agent_id), "agent_id"),
        run_id=_name(item.get("run_id", scope.run_id), "run_id"),
        infer=infer,
        source=_name(item.get("source", "api"), "source") or "api",
    )


def check_batch(items: Any, scope: Scope, settings: Settings) -> list[NewMemory]:
    """Check all items of a batch; the first bad one is named by its index and nothing is kept."""
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Sequence):
        raise InvalidInput("store_many needs a list of memories")
    if len(items) > settings.max_batch:
        raise InvalidInput(f"a batch holds {settings.max_batch} memories at most, this one {len(items)}")
    return [_check_item(index, item, scope, settings) for index, item in enumerate(items)]


def _check_item(index: int, item: Any, scope: Scope, settings: Settings) -> NewMemory:
    try:
        return check_memory(item, scope, settings)
    except MemosError as error:
        raise error.at(index) from error


def check_text(text: Any, limit: int) -> str:
    """Return ``text`` if it can be stored and searched; raise :class:`InvalidText` saying why not."""
    if not isinstance(text, str):
        raise InvalidText(f"text must be a string, not {type(text).__name__}")
    if not text.strip():
        raise InvalidText("text is empty or only white space")
    _check_characters(text, "text")
    size = len(text.encode())
    if size > limit:
        raise InvalidText(f"text has {size} bytes, the limit is {limit}; split it into several memories")
    return text


def check_metadata(metadata: Any, limit: int) -> dict[str, Any]:
    """Return metadata that is a JSON object with string keys, within ``limit`` bytes."""
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise InvalidInput(f"metadata must be an object, not {type(metadata).__name__}")
    if not metadata:
        return {}
    try:
        encoded = json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"metadata is not JSON: {error}") from error
    if _ESCAPED_NUL.search(encoded) or _SURROGATE.search(encoded):
        raise InvalidText("metadata holds a NUL character or a lone surrogate")
    size = len(encoded.encode())
    if size > limit:
        raise InvalidInput(f"metadata has {size} bytes as JSON, the limit is {limit}")
    decoded: dict[str, Any] = json.loads(encoded)
    if _depth(decoded) > MAX_METADATA_DEPTH:
        raise InvalidInput(f"metadata is nested deeper than {MAX_METADATA_DEPTH} levels")
    return decoded


def _depth(value: Any) -> int:
    """Return how many objects and lists lie within each other."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return depth


def speaker_of(text: str, metadata: Mapping[str, Any]) -> str | None:
    """Return who said it: ``metadata['speaker']`` or ``['role']``, else a ``Name: `` prefix of the text."""
    for key in ("speaker", "role"):
        named = metadata.get(key)
        if isinstance(named, str) and named.strip():
            return named.strip()[:MAX_NAME_LENGTH]
    prefix = _SPEAKER.match(text)
    return prefix.group(1) if prefix else None


def _name(value: Any, field: str) -> str | None:
    check_name(value, field)
    name: str | None = value
    return name


def _check_characters(text: str, what: str) -> None:
    nul = text.find("\0")
    if nul >= 0:
        raise InvalidText(f"{what} holds a NUL character at offset {nul}; remove it")
    lone = _SURROGATE.search(text)
    if lone:
        raise InvalidText(f"{what} holds a lone surrogate at offset {lone.start()}: it is not valid Unicode text")


def check_count(value: Any, most: int, name: str) -> int:
    """Return a whole number from 1 to ``most``; raise :class:`InvalidInput` naming the argument otherwise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(f"{name} must be a whole number, not {type(value).__name__}")
    if not 1 <= value <= most:
        raise InvalidInput(f"{name} must be between 1 and {most}, not {value}")
    return value
