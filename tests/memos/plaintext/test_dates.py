"""Dates named in a question."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos.clock import from_us, to_us
from memos.plaintext.dates import FIRST, FULL, LAST, NEAR, YEAR_ONLY, periods

NOW = datetime(2023, 5, 17, 15, 30, tzinfo=UTC)  # a Wednesday
YEARS = range(2022, 2024)


def named(question: str, reference: datetime = NOW) -> set[tuple[str, str, float]]:
    """The periods of a question as (first day, last day, weight)."""
    found = periods(question, reference, YEARS)
    return {(f"{from_us(one.start):%Y-%m-%d}", f"{from_us(one.end - 1):%Y-%m-%d}", one.weight) for one in found}


def month(year: int, number: int, weight: float = FULL) -> tuple[str, str, float]:
    last = (datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC) - timedelta(days=1)).day
    return (f"{year}-{number:02}-01", f"{year}-{number:02}-{last}", weight)


def day(text: str) -> tuple[str, str, float]:
    return (text, text, FULL)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        # full dates, which half-agree with their month
        ("on 8 May 2023", {day("2023-05-08"), month(2023, 5, NEAR)}),
        ("on May 8, 2023", {day("2023-05-08"), month(2023, 5, NEAR)}),
        ("on the 8th of May, 2023", {day("2023-05-08"), month(2023, 5, NEAR)}),
        ("on 2023-05-08", {day("2023-05-08"), month(2023, 5, NEAR)}),
        ("on february 29 2024", {day("2024-02-29"), month(2024, 2, NEAR)}),
        (
            "on 3 June",
            {day("2022-06-03"), month(2022, 6, NEAR), day("2023-06-03"), month(2023, 6, NEAR)},
        ),
        # days that do not exist leave their month
        ("on 31 June 2023", {month(2023, 6, NEAR)}),
        ("on 2023-02-30", {month(2023, 2, NEAR)}),
        # months
        ("in May 2023", {month(2023, 5)}),
        ("in december, 2022", {month(2022, 12)}),
        ("in 2023-06", {month(2023, 6)}),
        ("in June", {month(2022, 6), month(2023, 6)}),
        ("last June", {month(2022, 6)}),
        ("last April", {month(2023, 4)}),
        ("last May", {month(2022, 5)}),
        ("since march", {month(2022, 3), month(2023, 3)}),
        # the verb is no month
        ("what may help?", set()),
        ("May I ask?", {month(2022, 5), month(2023, 5)}),
        ("in may", {month(2022, 5), month(2023, 5)}),
        # relative
        ("today", {day("2023-05-17")}),
        ("yesterday", {day("2023-05-16")}),
        ("three days ago", {("2023-05-14", "2023-05-14", FULL)}),
        ("a week ago", {("2023-05-07", "2023-05-13", FULL)}),
        ("2 weeks ago", {("2023-04-30", "2023-05-06", FULL)}),
        ("a month ago", {("2023-04-02", "2023-05-01", FULL)}),
        ("last week", {("2023-05-08", "2023-05-14", FULL)}),
        ("this week", {("2023-05-15", "2023-05-21", FULL)}),
        ("last month", {month(2023, 4)}),
        ("this month", {month(2023, 5)}),
        ("last year", {("2022-01-01", "2022-12-31", FULL)}),
        ("this year", {("2023-01-01", "2023-12-31", FULL)}),
        ("last Tuesday", {day("2023-05-16")}),
        ("last Wednesday", {day("2023-05-10")}),
        # a bare year counts little, and only where nothing better is named
        ("in 2022", {("2022-01-01", "2022-12-31", YEAR_ONLY)}),
        ("in May 2022", {month(2022, 5)}),
        # nothing
        ("which pet did Ann adopt?", set()),
        ("room 2319 and 12 apples", set()),
        ("100 years ago", set()),
        ("on 2023-13-01", {("2023-01-01", "2023-12-31", YEAR_ONLY)}),
    ],
)
def test_periods(question: str, expected: set[tuple[str, str, float]]) -> None:
    assert named(question) == expected


def test_last_month_in_january() -> None:
    assert named("last month", datetime(2023, 1, 31, tzinfo=UTC)) == {month(2022, 12)}


def test_reference_is_read_in_utc() -> None:
    """At half past one in the east it is still the day before in UTC."""
    east = datetime.fromisoformat("2023-05-18T01:30:00+02:00")
    assert named("today", east) == {day("2023-05-17")}


@pytest.mark.parametrize(
    "question",
    [
        "yesterday",
        "last month",
        "last year",
        "last June",
        "99 years ago",
        "in December",
        "31 December",
    ],
)
@pytest.mark.parametrize("reference", [FIRST, LAST])
def test_ends_of_the_calendar(question: str, reference: datetime) -> None:
    found = periods(question, reference, range(reference.year, reference.year + 1))
    assert all(one.start <= one.end for one in found)


@given(question=st.text(max_size=40), reference=st.datetimes(timezones=st.just(UTC)))
def test_any_question(question: str, reference: datetime) -> None:
    for one in periods(question, reference, range(1, 3)):
        assert one.start <= one.end
        assert 0 < one.weight <= 1


@given(moment=st.datetimes(datetime(1900, 1, 1), datetime(2099, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_written_date_agrees_with_its_day(moment: datetime) -> None:
    for text in (f"{moment:%Y-%m-%d}", f"{moment:%-d %B %Y}", f"{moment:%B %-d, %Y}"):
        found = periods(f"what happened on {text}?", NOW, YEARS)
        assert max(one.weight for one in found if one.start <= to_us(moment) < one.end) == FULL
