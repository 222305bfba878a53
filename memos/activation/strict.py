"""JSON as strictly as a file from a disk deserves it. Every failure is a :class:`KVMiss` (``format``)."""

from __future__ import annotations

import json
import re
from typing import Any

from memos.activation.miss import KVMiss

#: Bound of every whole number in a header; far above what any real cache has.
MAX_INTEGER = 1 << 53
_INTEGER = re.compile(r"0|[1-9][0-9]{0,15}")


def dump(value: object) -> str:
    """Return compact ASCII JSON. Raises ``ValueError`` for NaN and infinities."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def parse(text: str) -> Any:
    """Parse JSON without duplicate keys, NaN or bottomless nesting."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise KVMiss("format", f"the header is not JSON: {error}") from error


def as_map(value: object) -> dict[str, Any]:
    """Return ``value`` if it is an object."""
    if not isinstance(value, dict):
        raise KVMiss("format", "the header has no map where one belongs")
    return value


def as_list(value: object) -> list[Any]:
    """Return ``value`` if it is an array."""
    if not isinstance(value, list):
        raise KVMiss("format", "the header has no list where one belongs")
    return value


def as_text(value: object) -> str:
    """Return ``value`` if it is a string."""
    if not isinstance(value, str):
        raise KVMiss("format", "the header has no text where some belongs")
    return value


def as_integer(value: object) -> int:
    """Return the whole number that ``value`` is, or writes in canonical decimals; at most :data:`MAX_INTEGER`."""
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_INTEGER:
        return value
    raise KVMiss("format", "the header has no whole number where one belongs")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")
