"""Chat logs in the shapes chat programs write them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos.cube import MemCube
from memos.transfer.formats.stamps import Stamp, day_comes_first
from memos.transfer.report import ImportReport

Imported = Callable[[str, str | bytes], tuple[ImportReport, list[MemCube]]]


def at(day: int, hour: int, minute: int, second: int = 0) -> datetime:
    return datetime(2025, 1, day, hour, minute, second, tzinfo=UTC)


@pytest.mark.parametrize(
    ("line", "moment"),
    [
        ("[2025-01-09 19:42] Maya: hello", at(9, 19, 42)),
        ("[2025-01-09T19:42:10Z] Maya: hello", at(9, 19, 42, 10)),
        ("[2025-01-09 19:42+01:00] Maya: hello", at(9, 18, 42)),
        ("[2025-01-09] Maya: hello", at(9, 0, 0)),
        ("[19/01/2025, 19:42:10] Maya: hello", at(19, 19, 42, 10)),
        ("[19.01.25, 19:42:10] Maya: hello", at(19, 19, 42, 10)),
        ("\u200e[1/19/25, 7:42:10\u202fPM] Maya: \u200ehello", at(19, 19, 42, 10)),
        ("[1/9/25, 12:05 AM] Maya: hello", at(9, 0, 5)),
        ("09/01/2025, 19:42 - Maya: hello", at(9, 19, 42)),
        ("2025-01-09 19:42 - Maya: hello", at(9, 19, 42)),
        ("2025-01-09 19:42 Maya: hello", at(9, 19, 42)),
        ("2025-01-09 19:42 <Maya> hello", at(9, 19, 42)),
        ("Maya (2025-01-09 19:42): hello", at(9, 19, 42)),
        ("Maya (19:42): hello", None),
        ("[19:42] Maya: hello", None),
        ("19:42 Maya: hello", None),
        ("Maya: hello", None),
    ],
)
def test_line_is_read(imported: Imported, line: str, moment: datetime | None) -> None:
    report, cubes = imported("log.txt", f"{line}\n")
    assert (report.format, report.rejected) == ("chatlog", ())
    [cube] = cubes
    assert (cube.text, cube.time.event_time) == ("Maya: hello", moment)
    assert cube.metadata == {"speaker": "Maya", "session": 1}
    assert (cube.scope.run_id, cube.provenance.source) == ("log/session_1", "import:chatlog")


def test_lines_continue_message(imported: Imported) -> None:
    log = "[2025-01-09 19:42] Maya: hello\nNote: milk\n\n  bye\n[2025-01-09 19:43] Tom: yes\n"
    _, cubes = imported("log.txt", log)
    assert [cube.text for cube in cubes] == ["Maya: hello\nNote: milk\n\n  bye", "Tom: yes"]


def test_notice_has_no_speaker(imported: Imported) -> None:
    log = "09/01/2025, 19:42 - Messages are encrypted.\n09/01/2025, 19:43 - Tom: yes\n"
    _, cubes = imported("log.txt", log)
    assert [(cube.text, cube.provenance.author) for cube in cubes] == [
        ("Messages are encrypted.", None),
        ("Tom: yes", "Tom"),
    ]


def test_hour_begins_session(imported: Imported) -> None:
    log = (
        "[2025-01-09 19:42] Maya: a\n\n[2025-01-09 20:42] Tom: b\n[2025-01-09 21:43] Maya: c\n"
        "\n[2025-01-09 21:44] Tom: d\n"
    )
    _, cubes = imported("log.txt", log)
    assert [cube.metadata["session"] for cube in cubes] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    "header",
    [
        "2025-01-10",
        "--- 10 January 2025 ---",
        "Friday, January 10th, 2025",
        "10/01/2025",
        "10 Jan 2025",
    ],
)
def test_date_header_dates_what_follows(imported: Imported, header: str) -> None:
    log = f"9 January 2025\nMaya (19:42): a\nTom (23:50): b\nMaya (00:10): c\n{header}\nTom (08:00): d\n"
    report, cubes = imported("log.txt", log)
    assert report.rejected == ()
    moments = [cube.time.event_time for cube in cubes]
    assert moments == [at(9, 19, 42), at(9, 23, 50), at(10, 0, 10), at(10, 8, 0)]
    assert [cube.metadata["session"] for cube in cubes] == [1, 2, 2, 3]


def test_date_header_begins_session_of_untimed_log(imported: Imported) -> None:
    log = "2025-01-09\nMaya: a\nTom: b\n2025-01-10\nMaya: c\nTom: d\n"
    _, cubes = imported("log.txt", log)
    assert [(cube.metadata["session"], cube.time.event_time) for cube in cubes] == [
        (1, at(9, 0, 0)),
        (1, at(9, 0, 0)),
        (2, at(10, 0, 0)),
        (2, at(10, 0, 0)),
    ]


@pytest.mark.parametrize(
    ("log", "sessions"),
    [
        ("Maya: a\nTom: b\n\nMaya: c\nTom: d\n", [1, 1, 2, 2]),
        ("Maya: a\n\nTom: b\n\nMaya: c\n\nTom: d\n", [1, 1, 1, 1]),
    ],
)
def test_blank_line_parts_blocks_only(imported: Imported, log: str, sessions: list[int]) -> None:
    _, cubes = imported("log.txt", log)
    assert [cube.metadata["session"] for cube in cubes] == sessions


def test_bad_lines_are_named(imported: Imported) -> None:
    log = (
        b"[2025-01-09 19:42] Maya: a\n[2025-13-09 19:42] Tom: no such month\nhis second line\n"
        b"[2025-01-09 25:00] Tom: no such hour\n[2025-01-09 19:43] Tom:\n"
        b"[2025-01-09 19:44] Maya: caf\xe9\n[2025-01-09 19:45] Maya: z\n"
    )
    report, cubes = imported("log.txt", log)
    assert [cube.text for cube in cubes] == ["Maya: a", "Maya: z"]
    assert sorted(line.line for line in report.rejected) == [2, 4, 5, 6]


def test_title_belongs_to_no_message(imported: Imported) -> None:
    report, cubes = imported("log.txt", "Our chat\n[2025-01-09 19:42] Maya: a\n")
    assert ([line.line for line in report.rejected], len(cubes)) == ([1], 1)


def test_url_is_no_speaker(imported: Imported) -> None:
    _, cubes = imported("log.txt", "Maya: see\nhttps://example.org/a: b\nTom: ok\n")
    assert [cube.text for cube in cubes] == ["Maya: see\nhttps://example.org/a: b", "Tom: ok"]


@pytest.mark.parametrize(
    ("days", "first"),
    [
        ([(13, 1, 25)], True),
        ([(1, 13, 25)], False),
        ([(1, 2, 25), (2, 2, 25), (1, 3, 25)], True),
        ([(1, 2, 25), (1, 3, 25), (2, 1, 25)], False),
        ([(1, 2, 25)], True),
    ],
)
def test_order_of_day_and_month(days: list[tuple[int, int, int]], first: bool) -> None:
    assert day_comes_first([Stamp(day, numeric=True) for day in days]) is first


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1)),  # noqa: DTZ001
    st.lists(st.integers(1, 20), min_size=20, max_size=40),
    st.booleans(),
)
def test_long_log_settles_its_order(start: datetime, gaps: list[int], day_first: bool) -> None:
    days = [start + timedelta(days=gap) for gap in accumulate(gaps)]
    if {day.day <= 12 for day in days} == {True}:
        return
    written = [(day.day, day.month) if day_first else (day.month, day.day) for day in days]
    stamps = [Stamp((one, two, day.year), numeric=True) for (one, two), day in zip(written, days, strict=True)]
    assert day_comes_first(stamps) is day_first
