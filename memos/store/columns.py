"""Field values by row, coded for filters: each distinct value is judged once, however many rows hold it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Row

from memos.store.arrays import GrowingArray

HEADER = ("agent_id", "run_id", "author", "state", "event_time", "created_at", "expires_at")
_METADATA = "metadata."
_NOTHING = (None,) * len(HEADER)


class ColumnStore:
    """Rows of header fields and metadata; a field is coded the first time a filter names it, then kept up to date."""

    def __init__(self) -> None:
        self._headers: list[tuple[Any, ...]] = []
        self._metadata: list[Mapping[str, Any]] = []
        self._coded: dict[str, _Column] = {}

    def append(self, entries: Sequence[Row[Any]]) -> None:
        """Add the next rows."""
        self._headers.extend(tuple(getattr(entry, name) for name in HEADER) for entry in entries)
        self._metadata.extend(entry.metadata for entry in entries)

    def forget(self, rows: Sequence[int]) -> None:
        """Keep nothing of what some rows hold, unless others hold it as well."""
        for row in rows:
            self._headers[row], self._metadata[row] = _NOTHING, {}
        for column in self._coded.values():
            column.forget(rows)

    def coded(self, field: str) -> tuple[Sequence[Any], NDArray[np.int32]]:
        """Return the distinct values of ``field`` and a code per row, -1 where it is missing."""
        column = self._coded.setdefault(field, _Column())
        column.extend(self._values(field, len(column)))
        return column.distinct, column.codes

    def header(self, row: int, field: str) -> Any:
        """Return one header field of one row."""
        return self._headers[row][HEADER.index(field)]

    def _values(self, field: str, start: int) -> Iterable[Any]:
        if field.startswith(_METADATA):
            path = field.removeprefix(_METADATA)
            return (_lookup(metadata, path) for metadata in self._metadata[start:])
        place = HEADER.index(field)
        return (header[place] for header in self._headers[start:])


class _Column:
    def __init__(self) -> None:
        self.distinct: list[Any] = []
        self._code_of: dict[str, int] = {}
        self._codes = GrowingArray(np.int32)

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def codes(self) -> NDArray[np.int32]:
        codes: NDArray[np.int32] = self._codes.values
        return codes

    def extend(self, values: Iterable[Any]) -> None:
        self._codes.extend([self._code(value) for value in values])

    def forget(self, rows: Sequence[int]) -> None:
        there = [row for row in rows if row < len(self)]
        gone = set(self.codes[there].tolist()) - {-1}
        self.codes[there] = -1
        held = np.bincount(self.codes + 1, minlength=len(self.distinct) + 1)[1:]
        for code in (code for code in gone if not held[code]):
            del self._code_of[_key(self.distinct[code])]
            self.distinct[code] = ""  # a code is never given twice

    def _code(self, value: Any) -> int:
        if value is None:
            return -1
        key = _key(value)
        code = self._code_of.setdefault(key, len(self.distinct))
        if code == len(self.distinct):
            self.distinct.append(value)
        return code


def _key(value: Any) -> str:
    """Return what tells 1, 1.0, true and "1" apart, and takes lists and objects."""
    return json.dumps(value, sort_keys=True)


def _lookup(metadata: Mapping[str, Any], path: str) -> Any:
    """Return the value at ``path``: the whole name first, then dot by dot into objects; ``None`` if missing."""
    if path in metadata:
        return metadata[path]
    value: Any = metadata
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value
