"""Time in microseconds, and times as callers write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos.clock import from_us, maybe_from_us, now_us, parse_time, to_us
from memos.errors import InvalidInput

EAST = timezone(timedelta(hours=2))


@given(st.datetimes(timezones=st.just(UTC)))
def test_microseconds_round_trip(moment: datetime) -> None:
    assert from_us(to_us(moment)) == moment


def test_naive_time_is_utc() -> None:
    assert to_us(datetime(1970, 1, 2)) == 86_400_000_000  # noqa: DTZ001


def test_zone_is_respected() -> None:
    assert to_us(datetime(1970, 1, 1, 2, tzinfo=EAST)) == 0


def test_maybe_from_us_none() -> None:
    assert maybe_from_us(None) is None


def test_now_is_now() -> None:
    assert abs(now_us() - to_us(datetime.now(UTC))) < 1_000_000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("2026-05-08", datetime(2026, 5, 8, tzinfo=UTC)),
        ("2026-05-08T10:00:00", datetime(2026, 5, 8, 10, tzinfo=UTC)),
        ("2026-05-08T10:00:00Z", datetime(2026, 5, 8, 10, tzinfo=UTC)),
        ("2026-05-08T12:00:00+02:00", datetime(2026, 5, 8, 10, tzinfo=UTC)),
        (datetime(2026, 5, 8, 12, tzinfo=EAST), datetime(2026, 5, 8, 10, tzinfo=UTC)),
        (datetime(2026, 5, 8), datetime(2026, 5, 8, tzinfo=UTC)),  # noqa: DTZ001
    ],
)
def test_parse_time_accepts(value: object, expected: datetime | None) -> None:
    assert parse_time(value, "event_time") == expected


@pytest.mark.parametrize("value", ["", "yesterday", "2026-13-01", "08.05.2026", 5, 1.5, True, b"2026-05-08", ["x"], {}])
def test_parse_time_refuses(value: object) -> None:
    with pytest.raises(InvalidInput, match="event_time"):
        parse_time(value, "event_time")


@pytest.mark.parametrize("value", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"])
def test_parse_time_out_of_range(value: str) -> None:
    """A time that has no UTC form could be stored but never read again."""
    with pytest.raises(InvalidInput, match="event_time"):
        parse_time(value, "event_time")


@given(st.datetimes(timezones=st.timezones()))
def test_parse_time_gives_utc(moment: datetime) -> None:
    try:
        parsed = parse_time(moment, "event_time")
    except InvalidInput:
        return
    assert parsed is not None
    assert parsed.utcoffset() == timedelta(0)
    assert from_us(to_us(parsed)) == parsed
