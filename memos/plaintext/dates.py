"""Dates named in a question, as intervals to hold against the time of a memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, UTC, datetime

from memos.clock import DAY_US, to_us

MONTHS = {
    name: number
    for number, name in enumerate(
        "january february march april may june july august september october november december".split(),
        1,
    )
}
WEEKDAYS = {
    name: number for number, name in enumerate("monday tuesday wednesday thursday friday saturday sunday".split())
}
NUMBERS = {
    name: number
    for number, name in enumerate("a two three four five six seven eight nine ten eleven twelve".split(), 1)
} | {"an": 1, "one": 1}

_MONTH = "|".join(MONTHS)
#: "may" is a verb more often than a month: alone it counts only with a capital or after one of these words.
_BARE_MONTH = re.compile(rf"\b(?:(?P<lead>in|last|this|since|until|during|of)\s+)?(?P<month>{_MONTH})\b", re.I)
_FULL_DATE = re.compile(
    rf"\b(?:(?P<day>[0-3]?\d)(?:st|nd|rd|th)?(?:\s+of)?\s+(?P<month>{_MONTH})"
    rf"|(?P<month2>{_MONTH})\s+(?P<day2>[0-3]?\d)(?:st|nd|rd|th)?\b)(?:,?\s+(?P<year>(?:19|20)\d\d))?",
    re.I,
)
_MONTH_YEAR = re.compile(rf"\b(?P<month>{_MONTH}),?\s+(?:of\s+)?(?P<year>(?:19|20)\d\d)\b", re.I)
_ISO = re.compile(r"\b(?P<year>(?:19|20)\d\d)-(?P<month>[01]\d)(?:-(?P<day>[0-3]\d))?\b")
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")
_AGO = re.compile(rf"\b(?P<count>\d+|{'|'.join(NUMBERS)})\s+(?P<unit>day|week|month|year)s?\s+ago\b", re.I)
_LAST = re.compile(rf"\b(?P<which>last|this|past)\s+(?P<unit>week|month|year|{'|'.join(WEEKDAYS)})\b", re.I)
_DAY = re.compile(r"\b(?P<day>today|yesterday)\b", re.I)

FULL, NEAR, YEAR_ONLY = 1.0, 0.5, 0.3
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_UNIT_DAYS = {"day": 1, "week": 7, "month": 30, "year": 365}


@dataclass(frozen=True, slots=True)
class Period:
    """``start <= t < end`` in microseconds, and what agreement with it is worth, 0 to 1."""

    start: int
    end: int
    weight: float


def periods(question: str, reference: datetime, years: range) -> list[Period]:
    """Return the periods a question names.

    ``reference`` is what "yesterday" counts from; a month without a year means that month in each of
    ``years``, or the latest one before ``reference`` after "last". A full date also half-agrees with its
    month, a bare year counts little.
    """
    found = [*_dates(question, years), *_relative(question, reference)]
    if not found:
        found = [*_bare_months(question, reference, years)]
    if not found:
        found = [_months(int(year), 1, 12, YEAR_ONLY) for year in _YEAR.findall(question)]
    return found


def _dates(question: str, years: range) -> Iterator[Period]:
    for match in _FULL_DATE.finditer(question):
        month = MONTHS[(match["month"] or match["month2"]).lower()]
        named = [int(match["year"])] if match["year"] else years
        for year in named:
            yield from _day_and_month(year, month, int(match["day"] or match["day2"]))
    for match in _MONTH_YEAR.finditer(_FULL_DATE.sub(" ", question)):
        yield _months(int(match["year"]), MONTHS[match["month"].lower()], 1, FULL)
    for match in _ISO.finditer(question):
        if 1 <= int(match["month"]) <= 12:
            yield from _day_and_month(int(match["year"]), int(match["month"]), int(match["day"] or 0))


def _day_and_month(year: int, month: int, day: int) -> Iterator[Period]:
    whole = _months(year, month, 1, NEAR if day else FULL)
    start = whole.start + (day - 1) * DAY_US
    if day and start < whole.end:
        yield _days(start, 1)
    yield whole


def _bare_months(question: str, reference: datetime, years: range) -> Iterator[Period]:
    for match in _BARE_MONTH.finditer(question):
        month, lead = match["month"], (match["lead"] or "").lower()
        if month == "may" and not lead:
            continue
        number = MONTHS[month.lower()]
        if lead == "last":
            yield _months(reference.year - (number >= reference.month), number, 1, FULL)
        else:
            yield from (_months(year, number, 1, FULL) for year in years)


def _relative(question: str, reference: datetime) -> Iterator[Period]:
    today = reference.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    midnight = to_us(today)
    for match in _DAY.finditer(question):
        yield _days(midnight - (match["day"].lower() == "yesterday") * DAY_US, 1)
    for match in _AGO.finditer(question):
        count = int(match["count"]) if match["count"].isdigit() else NUMBERS[match["count"].lower()]
        days = _UNIT_DAYS[match["unit"].lower()]
        if count * days < 36_500:
            # "three weeks ago" is loose by half a unit on either side
            yield _days(midnight - (count * days + days // 2) * DAY_US, max(1, days))
    for match in _LAST.finditer(question):
        yield _last(match["which"].lower(), match["unit"].lower(), today)


def _last(which: str, unit: str, today: datetime) -> Period:
    back = which != "this"
    if unit in WEEKDAYS:
        return _days(to_us(today) - ((today.weekday() - WEEKDAYS[unit]) % 7 or 7) * DAY_US, 1)
    if unit == "week":
        return _days(to_us(today) - (today.weekday() + 7 * back) * DAY_US, 7)
    if unit == "month":
        return _months(today.year, today.month - back, 1, FULL)
    return _months(today.year - back, 1, 12, FULL)


def _days(start: int, count: int) -> Period:
    return Period(start, start + count * DAY_US, FULL)


def _months(year: int, month: int, count: int, weight: float) -> Period:
    first = year * 12 + month - 1
    return Period(_beginning(first), _beginning(first + count), weight)


def _beginning(months: int) -> int:
    """Return when the month begins that is ``months`` after January of the year 0, in microseconds.

    Before the year 1 and after the year 9999 no memory can lie: there all months are one moment.
    """
    year, month = divmod(months, 12)
    if not MINYEAR <= year <= MAXYEAR:
        return to_us(FIRST) if year < MINYEAR else to_us(LAST) + 1
    return to_us(datetime(year, month + 1, 1, tzinfo=UTC))
