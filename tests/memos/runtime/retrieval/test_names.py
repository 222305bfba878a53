"""Names of retrievals, and how much of a context they attend."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos.errors import InvalidInput, RetrievalRefused
from memos.runtime.retrieval import names
from memos.runtime.retrieval.methods import METHODS
from memos.runtime.retrieval.names import FIRST, LAST, PAGE, Retrieval, check_retrieval

WRONG = ("", "quest", "quest:", "quest:0", "quest:-0.5", "quest:1.01", "quest:nan", "quest:x", ":0.5", "quest:0.5:1")


@pytest.mark.parametrize("name", [*WRONG, "snapkv:0.5"])
def test_name_that_means_nothing_is_refused(name: str) -> None:
    with pytest.raises(RetrievalRefused) as refused:
        check_retrieval(name)
    assert isinstance(refused.value, InvalidInput)


def test_every_name_has_a_method() -> None:
    assert set(METHODS) == {*names.METHODS, *names.CONTROLS}


@given(st.integers(1, 5_000), st.floats(1e-6, 1))
def test_share_is_of_pages_and_never_too_small(tokens: int, ratio: float) -> None:
    retrieval = Retrieval("quest", ratio)
    there, pages = math.ceil(tokens / PAGE), retrieval.pages(tokens)
    assert pages == min(there, max(math.ceil(ratio * there - 1e-9), FIRST + LAST))
    assert PAGE * (pages - 1) < retrieval.attended(tokens) <= min(PAGE * pages, tokens)
    assert Retrieval("quest", 1.0).attended(tokens) == tokens


def test_tenth_of_thirty_pages_is_three() -> None:
    assert [check_retrieval(f"quest:{ratio}").pages(30 * PAGE) for ratio in (0.1, 0.3, 0.7)] == [3, 9, 21]
