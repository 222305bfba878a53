"""JSON objects, one per line or in one array: memories as ``store`` takes them, or chat messages.

``{"text": "...", "metadata": {...}, "event_time": "...", "run_id": "..."}`` is a memory; other fields go into its
metadata. ``{"role": "user", "content": "..."}`` is a message, ``{"messages": [...]}`` a conversation of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from memos.transfer.files import Source
from memos.transfer.formats.document import Document
from memos.transfer.formats.parsed import DERIVED_RUN, ParsedLines
from memos.transfer.report import RejectedLine

_FIELDS = frozenset({"text", "event_time", "expires_at", "agent_id", "run_id", "infer", "source", "metadata"})


def read(source: Source) -> ParsedLines:
    """Yield the memories of a file with one object per line; blank lines are passed over."""
    for line in source.lines():
        if isinstance(line, RejectedLine):
            yield line
        elif line[1].strip():
            yield from _line(*line, source.name)


def read_document(source: Source) -> ParsedLines:
    """Yield the memories of a file that is one JSON array, or one object with ``messages``."""
    document = Document.of(source)
    root, place = document.root
    if isinstance(root, list):
        for _, value, at in document.members(place):
            yield from _value(document.line(at), value, source.name)
    else:
        yield from _value(document.line(place), root, source.name)


def _line(number: int, text: str, run: str) -> ParsedLines:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        yield RejectedLine(line=number, reason=f"not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        yield RejectedLine(line=number, reason=f"not JSON that can be read: {error}")
    else:
        yield from _value(number, value, run)


def _value(number: int, value: Any, run: str) -> ParsedLines:
    if not isinstance(value, Mapping):
        reason = f"a memory must be an object, not {type(value).__name__}"
        yield RejectedLine(line=number, reason=reason)
    elif isinstance(value.get("messages"), list):
        for message in value["messages"]:
            if isinstance(message, Mapping):
                yield _item(number, {DERIVED_RUN: f"{run}/{number}", **message})
            else:
                yield RejectedLine(line=number, reason="a message must be an object")
    else:
        yield _item(number, {DERIVED_RUN: run, **value} if "role" in value else value)


def _item(number: int, value: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]] | RejectedLine:
    fields = dict(value)
    if "text" not in fields and "content" in fields:
        fields["text"] = _content(fields.pop("content"))
    metadata = fields.get("metadata")
    others = {name: fields.pop(name) for name in [*fields] if name not in {*_FIELDS, DERIVED_RUN}}
    if not others:
        return number, fields
    if not isinstance(metadata, Mapping | None):
        reason = f"metadata must be an object, not {type(metadata).__name__}"
        return RejectedLine(line=number, reason=reason)
    twice = sorted(others.keys() & (metadata or {}).keys())
    if twice:
        reason = f"{twice[0]!r} stands both beside and inside metadata"
        return RejectedLine(line=number, reason=reason)
    return number, {**fields, "metadata": {**others, **(metadata or {})}}


def _content(content: Any) -> Any:
    """Return the text of a message: a string, or the text parts of a list of parts."""
    return "\n".join(_texts(content)) if isinstance(content, list) else content


def _texts(parts: list[Any]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, Mapping) and isinstance(part.get("text"), str):
            yield part["text"]
