"""Time as this project stores it: microseconds since the Unix epoch, UTC; aware datetimes at the edges."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from memos.errors import InvalidInput

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR_US, DAY_US = 3_600_000_000, 86_400_000_000


def now_us() -> int:
    """Return the present time in microseconds since the epoch."""
    return time.time_ns() // 1000


def to_us(moment: datetime) -> int:
    """Convert a datetime; a naive one is taken as UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - EPOCH) // timedelta(microseconds=1)


def from_us(micros: int) -> datetime:
    """Convert microseconds since the epoch to an aware UTC datetime."""
    return EPOCH + timedelta(microseconds=micros)


def maybe_from_us(micros: int | None) -> datetime | None:
    """As :func:`from_us`, passing ``None`` through."""
    return None if micros is None else from_us(micros)


def parse_time(value: object, name: str) -> datetime | None:
    """Accept ``None``, a datetime or an ISO 8601 string; raise :class:`InvalidInput` naming the field otherwise."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError as error:
        raise InvalidInput(f"{name} is not an ISO 8601 time: {value!r}") from error
    if not isinstance(moment, datetime):
        raise InvalidInput(f"{name} must be a datetime or an ISO 8601 string, not {type(value).__name__}")
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError as error:
        raise InvalidInput(f"{name} lies outside the years 1 to 9999 in UTC: {value!r}") from error
