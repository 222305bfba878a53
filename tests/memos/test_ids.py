"""UUIDv7 identifiers."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from uuid import RFC_4122, UUID

import pytest

from memos.ids import is_id, new_id

SOME = UUID("019a2b3c-4d5e-7f60-8a7b-9c0d1e2f3a4b")


def test_new_id_is_version_7() -> None:
    made = UUID(new_id())
    assert (made.version, made.variant) == (7, RFC_4122)


def test_new_id_carries_the_time() -> None:
    before = time.time_ns() // 1_000_000
    milliseconds = UUID(new_id()).int >> 80
    assert before <= milliseconds <= time.time_ns() // 1_000_000 + 1


def test_new_id_strictly_increasing() -> None:
    made = [new_id() for _ in range(20_000)]
    assert all(one < other for one, other in pairwise(made))


def test_new_id_unique_across_threads() -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: [new_id() for _ in range(2_000)], range(8)))
    made = [item for run in runs for item in run]
    assert len(set(made)) == len(made)
    assert all(run == sorted(run) for run in runs)


def test_is_id_accepts_own() -> None:
    assert is_id(new_id())


@pytest.mark.parametrize(
    "text",
    ["", "x", "0", str(SOME).upper(), SOME.hex, f"{{{SOME}}}", f"urn:uuid:{SOME}"],
)
def test_is_id_refuses_other_forms(text: str) -> None:
    assert not is_id(text)


@pytest.mark.parametrize("value", [None, 5, b"x", ["a"], UUID(int=0)])
def test_is_id_refuses_other_types(value: object) -> None:
    assert not is_id(value)
