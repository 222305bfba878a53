"""The error tree: what its docstring draws is what the classes are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

import memos.errors
from memos.errors import InvalidInput, InvalidText, MemosError, VersionConflict

LINE = re.compile(r"^ {4}(?P<branch>[│├└─ ]*)(?P<name>[A-Z]\w+) +(?P<status>\d{3}) {2}(?P<code>[\w-]+)")


def classes(root: type[MemosError] = MemosError) -> Iterator[type[MemosError]]:
    yield root
    for child in root.__subclasses__():
        yield from classes(child)


def drawn() -> list[tuple[str, str, int, str]]:
    """Name, parent's name, status and code of every class in the module's docstring."""
    found: list[tuple[str, str, int, str]] = []
    above: dict[int, str] = {-1: "Exception"}
    for line in (memos.errors.__doc__ or "").splitlines():
        if match := LINE.match(line):
            depth = len(match["branch"]) // 4
            above[depth] = match["name"]
            found.append((match["name"], above[depth - 1], int(match["status"]), match["code"]))
    return found


def test_docstring_draws_every_class() -> None:
    real = [
        (kind.__name__, str(kind.__base__ and kind.__base__.__name__), kind.status, kind.code) for kind in classes()
    ]
    assert sorted(drawn()) == sorted(real)


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in classes()]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("kind", list(classes()), ids=lambda kind: kind.code)
def test_problem_body(kind: type[MemosError]) -> None:
    body = kind("what happened", index=3).problem()
    assert json.loads(json.dumps(body)) == {
        "type": f"urn:memos:problem:{kind.code}",
        "title": kind.__name__,
        "status": kind.status,
        "detail": "what happened",
        "code": kind.code,
        "index": 3,
    }


def test_at_names_the_item() -> None:
    located = InvalidText("text is empty", limit=5).at(7)
    assert (type(located), located.message) == (InvalidText, "item 7: text is empty")
    assert located.extra == {"limit": 5, "index": 7}


def test_whole_takes_the_index_back() -> None:
    error = InvalidInput("bad")
    assert error.at(0).whole() is error
    assert error.whole() is error


def test_message_reads_as_text() -> None:
    error = VersionConflict("stale", current_version=4)
    assert (str(error), error.extra["current_version"]) == ("stale", 4)
