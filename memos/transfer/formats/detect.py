"""Which format a file has, told by its content; the suffix only breaks a tie."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from memos.transfer.files import Source
from memos.transfer.formats import chatlog, jsonl, locomo, prose
from memos.transfer.formats.parsed import ParsedLines
from memos.transfer.record import FORMAT

OWN = FORMAT
_SAMPLE = 200
_JSON = re.compile(rb"\s*(?:\{\s*[\"}]|\[\s*[\[\]{\"])")
_LINE_SUFFIXES = frozenset({".jsonl", ".ndjson"})


@dataclass(frozen=True, slots=True)
class Format:
    """A format by name. ``read`` is ``None`` for the own one, whose records are restored rather than stored."""

    name: str
    read: Callable[[Source], ParsedLines] | None


def detect(source: Source) -> Format:
    """Return the format of a file; plain prose is what is left when nothing else fits."""
    lines = source.readable(_SAMPLE)
    if not lines:
        return Format("jsonl" if source.path.suffix in _LINE_SUFFIXES else "prose", prose.read)
    first = _value(lines[0])
    if isinstance(first, Mapping) and first.get("format") == OWN:
        return Format(OWN, None)
    if chatlog.is_log(lines):
        return Format("chatlog", chatlog.read)
    objects = sum(isinstance(_value(line), Mapping) for line in lines)
    by_line = objects * 2 >= len(lines) or source.path.suffix in _LINE_SUFFIXES
    if by_line and (len(lines) > 1 or not locomo.is_sample(first)):
        return Format("jsonl", jsonl.read)
    return _document(source) or Format("prose", prose.read)


def _document(source: Source) -> Format | None:
    """Return the format of a file that is one JSON value, or begins like one."""
    value = _value(source.data)
    if not _JSON.match(source.data) or (value is not None and not isinstance(value, dict | list)):
        return None
    samples = value if isinstance(value, list) else [value]
    if any(locomo.is_sample(sample) for sample in samples):
        return Format("locomo", locomo.read)
    return Format("json", jsonl.read_document)


def _value(text: str | bytes) -> Any:
    """Return the JSON value of a text, ``None`` if it has none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
