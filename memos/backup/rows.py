"""Rows of tables as lines of JSON and back; what comes back is checked, since anybody may have written it.

A line is ``["table", {"column": value, ...}]``. Bytes are base64. What a later schema added is missing in the lines of
an earlier one, and gets the column's own default.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from sqlalchemy import JSON, Boolean, Column, Float, Integer, LargeBinary
from sqlalchemy.types import TypeEngine

from memos.errors import BackupRefused

#: Longest line that is read, in bytes.
MAX_LINE = 256 << 20
_INT64 = 1 << 63

TableRow = dict[str, Any]


def to_line(table: str, row: Mapping[str, Any]) -> bytes:
    """Return a row as a line."""
    text = json.dumps([table, to_plain(row)], ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode() + b"\n"


def to_plain(row: Mapping[str, Any]) -> TableRow:
    """Return a row as JSON can hold it."""
    return {name: _plain(value) for name, value in row.items()}


def told_apart(row: Mapping[str, Any]) -> str:
    """Return what two rows that say the same have in common, whichever databases they come from."""
    return json.dumps(to_plain(row), sort_keys=True)


def _plain(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes | memoryview) else value


def from_lines(file: IO[bytes]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield table and row of each line. Raises :class:`BackupRefused`."""
    while line := file.readline(MAX_LINE):
        try:
            match json.loads(line, parse_constant=_no_constant):
                case [str(table), dict(row)]:
                    yield table, row
                    continue
        except (ValueError, RecursionError):
            pass
        raise BackupRefused("the backup has a line that is no row of a table; nothing was restored")


def from_plain(columns: Iterable[Column[Any]], row: Mapping[str, Any]) -> TableRow:
    """Return a row as the columns hold it. Raises :class:`BackupRefused` for what they cannot hold."""
    known = {column.name: column for column in columns}
    if unknown := row.keys() - known.keys():
        raise BackupRefused(f"the backup has a column {sorted(unknown)[0]!r} that this version does not know")
    return {name: _value(known[name], value) for name, value in row.items()}


def _value(column: Column[Any], value: Any) -> Any:
    kind = column.type
    if value is None:
        if not column.nullable:
            raise _wrong(column)
        return None
    if isinstance(kind, JSON):
        return _storable(column, value)
    if isinstance(kind, LargeBinary):
        return _bytes(column, value)
    if isinstance(kind, Float) and type(value) is int:
        value = float(value)
    if type(value) is not _python_type(kind) or not _fits(value):
        raise _wrong(column)
    return _storable(column, value)


def _python_type(kind: TypeEngine[Any]) -> type:
    if isinstance(kind, Boolean):
        return bool
    if isinstance(kind, Integer):
        return int
    return float if isinstance(kind, Float) else str


def _fits(value: Any) -> bool:
    """Whether a number is one that both databases hold."""
    if isinstance(value, int):
        return -_INT64 <= value < _INT64
    return not isinstance(value, float) or math.isfinite(value)


def _bytes(column: Column[Any], value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise _wrong(column) from error


def _storable(column: Column[Any], value: Any) -> Any:
    """Return a value whose strings a database can take: no NUL, no lone surrogate. Its nesting is that of a parser."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str) and not _is_storable(one):
            raise _wrong(column)
        if isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            waiting += one
    return value


def _is_storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _wrong(column: Column[Any]) -> BackupRefused:
    return BackupRefused(f"the backup has a value that {column} cannot hold; nothing was restored")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
