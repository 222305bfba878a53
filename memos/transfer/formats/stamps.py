"""Dates and clock times as chat programs write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise

from memos.plaintext.dates import MONTHS, WEEKDAYS

HOUR = timedelta(hours=1)
_DAY = (
    r"(?:(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})"
    r"|(?P<first>\d{1,2})[-/.](?P<second_>\d{1,2})[-/.](?P<third>\d{4}|\d{2}))"
)
_CLOCK = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<seconds>\d{2})(?:[.,]\d+)?)?"
    r"(?:\s?(?P<half>[AaPp])\.?[Mm]\.?)?(?P<zone>\s?Z|[+-]\d{2}:?\d{2})?"
)
#: A date, a clock time or both; begins with a digit.
STAMP = rf"(?=\d)(?:{_DAY}(?:,\s*|T|\s+|(?=[\])\s])))?(?:{_CLOCK})?"
_SHORT_MONTHS = {name[:3]: number for name, number in MONTHS.items()}
_NAMED = (
    r"(?:(?P<day_a>\d{1,2})(?:st|nd|rd|th)?\s+(?P<month_a>[a-z]+),?"
    r"|(?P<month_b>[a-z]+)\s+(?P<day_b>\d{1,2})(?:st|nd|rd|th)?,?)\s+(?P<named_year>\d{4})"
)
_HEADER = re.compile(rf"[-=*#\s]*(?:(?:{'|'.join(WEEKDAYS)})\s*,?\s*)?(?:{_DAY}|{_NAMED})[-=*#:\s]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What was written, not yet read: the meaning of ``03/04/25`` depends on the rest of the file.

    ``day`` is (year, month, day), or (first, second, year) when ``numeric``; ``clock`` hours, minutes, seconds.
    """

    day: tuple[int, int, int] | None = None
    numeric: bool = False
    clock: tuple[int, int, int] | None = None
    half: str | None = None
    zone: timezone = UTC


def stamp_of(match: re.Match[str]) -> Stamp | None:
    """Return the stamp in a match of a pattern that holds :data:`STAMP`, ``None`` where it matched nothing."""
    parts = match.groupdict()
    day = _day(parts)
    if parts["hour"] is None:
        return None if day is None else Stamp(day, parts["first"] is not None)
    clock = (int(parts["hour"]), int(parts["minute"]), int(parts["seconds"] or 0))
    half = parts["half"].lower() if parts["half"] else None
    return Stamp(day, parts["first"] is not None, clock, half, _zone(parts["zone"]))


def header_of(line: str) -> Stamp | None:
    """Return the day a line consists of, as in ``--- 9 January 2025 ---``, or ``None``."""
    match = _HEADER.fullmatch(line)
    if match is None:
        return None
    parts = match.groupdict()
    if parts["named_year"] is None:
        return Stamp(_day(parts), parts["first"] is not None)
    name = (parts["month_a"] or parts["month_b"]).lower()
    month = MONTHS.get(name) or _SHORT_MONTHS.get(name)
    if month is None:
        return None
    return Stamp((int(parts["named_year"]), month, int(parts["day_a"] or parts["day_b"])))


def _day(parts: dict[str, str | None]) -> tuple[int, int, int] | None:
    names = ("first", "second_", "third") if parts["first"] else ("year", "month", "day")
    found = [parts[name] for name in names]
    numbers = [int(number) for number in found if number is not None]
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else None


def _zone(written: str | None) -> timezone:
    if written is None or written.strip() == "Z":
        return UTC
    digits = written.replace(":", "")
    offset = timedelta(hours=int(digits[1:3]), minutes=int(digits[3:5]))
    return timezone(-offset if digits[0] == "-" else offset)


def day_comes_first(stamps: Sequence[Stamp]) -> bool:
    """Decide whether numeric dates are day/month (else month/day).

    A part above 12 settles it; then the reading in which time runs backwards less often; then a 12-hour clock speaks
    for month/day.
    """
    numeric = [stamp.day for stamp in stamps if stamp.numeric and stamp.day is not None]
    first = any(day[0] > 12 for day in numeric)
    second = any(day[1] > 12 for day in numeric)
    if first != second:
        return first
    day_first = _backwards([(year, b, a) for a, b, year in numeric])
    month_first = _backwards([(year, a, b) for a, b, year in numeric])
    if day_first != month_first:
        return day_first < month_first
    return not any(stamp.half for stamp in stamps)


def _backwards(days: Sequence[tuple[int, int, int]]) -> int:
    return sum(later < earlier for earlier, later in pairwise(days))


class Timeline:
    """Turns stamps into moments, line after line: a clock time belongs to the last day named, or to the next one."""

    def __init__(self, *, day_first: bool) -> None:
        self._day_first = day_first
        self._day = date(2000, 1, 1)
        self._last: datetime | None = None
        #: Whether a day was named so far; before that, moments only serve to be compared.
        self.dated = False

    def begin(self, stamp: Stamp) -> None:
        """Take the day of a header or stamp. Raises ``ValueError`` if there is no such day."""
        assert stamp.day is not None
        first, second, third = stamp.day
        if not stamp.numeric:
            self._day = date(first, second, third)
        else:
            year = third + 2000 if third < 100 else third
            month, day = (second, first) if self._day_first else (first, second)
            self._day = date(year, month, day)
        self.dated, self._last = True, None

    def moment(self, stamp: Stamp) -> datetime:
        """Return the moment of a stamp as UTC. Raises ``ValueError`` where there is no such day or hour."""
        if stamp.day is not None:
            self.begin(stamp)
        found = self._at(stamp)
        if self._last is not None and found < self._last - HOUR:  # past midnight
            self._day += timedelta(days=1)
            found = self._at(stamp)
        self._last = found
        return found

    def midnight(self) -> datetime | None:
        """Return the beginning of the last day named, ``None`` if none was."""
        return self._at(Stamp()) if self.dated else None

    def _at(self, stamp: Stamp) -> datetime:
        hour, minute, second = stamp.clock or (0, 0, 0)
        if stamp.half is not None:
            if not 1 <= hour <= 12:
                raise ValueError(f"{hour} is no hour of a 12-hour clock")
            hour = hour % 12 + 12 * (stamp.half == "p")
        day = self._day
        local = datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=stamp.zone)
        return local.astimezone(UTC)
