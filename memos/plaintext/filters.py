"""The filter grammar: ``{"metadata.topic": "travel", "$or": [...]}``.

    filter    = { field: operand | {operator: operand, ...}, "$and": [filter, ...], "$or": [...], "$not": filter, ... }
    field     = metadata.PATH | agent_id | run_id | author | state | event_time | created_at | expires_at
    operator  = $eq $ne $in $nin $gt $gte $lt $lte $contains

Several entries of one mapping must all hold. A missing field equals nothing: ``$ne`` and ``$nin`` hold for it, every
other operator fails. Numbers compare with numbers and strings with strings; ``$contains`` means element of a list or
part of a string. :func:`parse` checks a filter completely before anything is searched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from memos.clock import parse_time, to_us
from memos.errors import InvalidFilter, InvalidInput

Mask = NDArray[np.bool_]
HEADER_FIELDS = frozenset({"agent_id", "run_id", "author", "state"})
TIME_FIELDS = frozenset({"event_time", "created_at", "expires_at"})
MAX_DEPTH = 16


class Columns(Protocol):
    """Where field values come from: each distinct value of a field once, and a code per row (-1: missing)."""

    def coded(self, field: str) -> tuple[Sequence[Any], NDArray[np.int32]]:
        """Return ``(distinct values, codes [rows])`` of a field."""
        ...


class Condition(Protocol):
    """A parsed filter."""

    def mask(self, columns: Columns) -> Mask:
        """Return which rows satisfy it, bool ``[rows]``."""
        ...


@dataclass(frozen=True, slots=True)
class Test:
    """One operator on one field."""

    field: str
    operator: str
    operand: Any

    def mask(self, columns: Columns) -> Mask:
        """Decide each distinct value once, then spread the verdicts over the rows."""
        distinct, codes = columns.coded(self.field)
        holds = OPERATORS[self.operator]
        missing = self.operator in NEGATIVE
        verdicts = np.fromiter((holds(value, self.operand) for value in distinct), bool, len(distinct))
        spread: Mask = np.append(verdicts, missing)[codes]
        return spread


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds; true when there is none."""

    parts: tuple[Condition, ...]

    def mask(self, columns: Columns) -> Mask:
        """Intersect the parts."""
        mask: Mask = np.logical_and.reduce([part.mask(columns) for part in self.parts])
        return mask


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds."""

    parts: tuple[Condition, ...]

    def mask(self, columns: Columns) -> Mask:
        """Unite the parts."""
        mask: Mask = np.logical_or.reduce([part.mask(columns) for part in self.parts])
        return mask


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Condition

    def mask(self, columns: Columns) -> Mask:
        """Complement the part."""
        return ~self.part.mask(columns)


# ---------------------------------------------------------------- parsing


def parse(filters: Mapping[str, Any] | None) -> Condition | None:
    """Check and parse a filter; ``None`` and ``{}`` mean no restriction. Raises :class:`InvalidFilter`."""
    if filters is None or filters == {}:
        return None
    return _parse(filters, depth=0)


def _parse(filters: Any, depth: int) -> Condition:
    if not isinstance(filters, Mapping):
        raise InvalidFilter(f"a filter must be an object, not {type(filters).__name__}")
    if depth > MAX_DEPTH:
        raise InvalidFilter(f"filters may be nested {MAX_DEPTH} deep at most")
    if not filters:
        raise InvalidFilter("an empty object inside a filter restricts nothing; leave it out")
    parts = tuple(part for key, value in filters.items() for part in _entry(key, value, depth))
    return parts[0] if len(parts) == 1 else AllOf(parts)


def _entry(key: Any, value: Any, depth: int) -> list[Condition]:
    if key in ("$and", "$or"):
        if not isinstance(value, list | tuple) or not value:
            raise InvalidFilter(f"{key} needs a list of at least one filter")
        parts = tuple(_parse(part, depth + 1) for part in value)
        return [AllOf(parts) if key == "$and" else AnyOf(parts)]
    if key == "$not":
        return [Not(_parse(value, depth + 1))]
    field = _check_field(key)
    if isinstance(value, Mapping) and any(str(name).startswith("$") for name in value):
        return [_test(field, operator, operand) for operator, operand in value.items()]
    return [_test(field, "$eq", value)]


def _check_field(key: Any) -> str:
    if isinstance(key, str) and key.startswith("$"):
        raise InvalidFilter(f"unknown operator {key!r}; at this place $and, $or and $not are known")
    known = HEADER_FIELDS | TIME_FIELDS
    if not isinstance(key, str) or not (key in known or (key.startswith("metadata.") and key != "metadata.")):
        raise InvalidFilter(f"unknown field {key!r}; use metadata.NAME or one of {', '.join(sorted(known))}")
    return key


def _test(field: str, operator: str, operand: Any) -> Test:
    if operator not in OPERATORS:
        raise InvalidFilter(f"unknown operator {operator!r} on {field}; known: {' '.join(OPERATORS)}")
    many = operator in ("$in", "$nin")
    if many and not isinstance(operand, list | tuple):
        raise InvalidFilter(f"{operator} on {field} needs a list")
    if operator in ORDERED and (isinstance(operand, bool) or not isinstance(operand, int | float | str | datetime)):
        raise InvalidFilter(f"{operator} on {field} needs a number, a string or a time, not {type(operand).__name__}")
    _check_operand(field, operand, depth=0)
    if isinstance(operand, datetime) and field not in TIME_FIELDS:
        raise InvalidFilter(f"{field} holds JSON, which has no times; compare it with an ISO 8601 string")
    if field in TIME_FIELDS:
        operand = [_micros(field, item) for item in operand] if many else _micros(field, operand)
    return Test(field, operator, operand)


def _check_operand(field: str, operand: Any, depth: int) -> None:
    """Refuse what no stored value could equal, such as an array or an object of the caller's."""
    if depth > MAX_DEPTH:
        raise InvalidFilter(f"the operand on {field} is nested deeper than {MAX_DEPTH} levels")
    if isinstance(operand, list | tuple):
        parts: Iterable[Any] = operand
    elif isinstance(operand, Mapping):
        parts = operand.values()
    elif operand is None or isinstance(operand, str | int | float | datetime):
        return
    else:
        raise InvalidFilter(f"{field} cannot be compared with a {type(operand).__name__}")
    for part in parts:
        _check_operand(field, part, depth + 1)


def _micros(field: str, operand: Any) -> int | None:
    try:
        moment = parse_time(operand, field)
    except InvalidInput as error:
        raise InvalidFilter(error.message) from error
    return None if moment is None else to_us(moment)


# ---------------------------------------------------------------- operators on one stored value


def _equal(stored: Any, operand: Any) -> bool:
    """JSON equality: ``1 == 1.0`` but ``1 != true``, inside lists and objects too."""
    if isinstance(stored, list) and isinstance(operand, list | tuple):
        return len(stored) == len(operand) and all(map(_equal, stored, operand))
    if isinstance(stored, dict) and isinstance(operand, Mapping):
        return stored.keys() == operand.keys() and all(_equal(value, operand[name]) for name, value in stored.items())
    return isinstance(stored, bool) == isinstance(operand, bool) and bool(stored == operand)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def holds(stored: Any, operand: Any) -> bool:
        if isinstance(stored, bool):
            return False
        numbers = isinstance(stored, int | float) and isinstance(operand, int | float)
        strings = isinstance(stored, str) and isinstance(operand, str)
        return (numbers or strings) and compare(stored, operand)

    return holds


def _contains(stored: Any, operand: Any) -> bool:
    if isinstance(stored, str):
        return isinstance(operand, str) and operand in stored
    return isinstance(stored, list) and any(_equal(item, operand) for item in stored)


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": _equal,
    "$ne": lambda stored, operand: not _equal(stored, operand),
    "$in": lambda stored, operand: any(_equal(stored, item) for item in operand),
    "$nin": lambda stored, operand: not any(_equal(stored, item) for item in operand),
    "$gt": _ordered(lambda stored, operand: stored > operand),
    "$gte": _ordered(lambda stored, operand: stored >= operand),
    "$lt": _ordered(lambda stored, operand: stored < operand),
    "$lte": _ordered(lambda stored, operand: stored <= operand),
    "$contains": _contains,
}
NEGATIVE = frozenset({"$ne", "$nin"})
ORDERED = frozenset({"$gt", "$gte", "$lt", "$lte"})
