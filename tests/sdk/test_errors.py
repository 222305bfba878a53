"""The SDK's error tree mirrors the engine's."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

import memos.errors as engine
import memos_sdk.errors as sdk


def engine_classes(
    root: type[engine.MemosError] = engine.MemosError,
) -> Iterator[type[engine.MemosError]]:
    yield root
    for child in root.__subclasses__():
        yield from engine_classes(child)


def sdk_classes(root: type[sdk.MemosError] = sdk.MemosError) -> Iterator[type[sdk.MemosError]]:
    yield root
    for child in root.__subclasses__():
        yield from sdk_classes(child)


def lineage(kind: type[BaseException]) -> list[str]:
    return [base.__name__ for base in kind.__mro__]


@pytest.mark.parametrize("kind", list(engine_classes()), ids=lambda kind: kind.code)
def test_round_trip(kind: type[engine.MemosError]) -> None:
    """A problem of the engine comes back as the class of the same name, code, status and ancestry."""
    problem = kind("what happened", index=2, current_version=5).problem()
    error = sdk.from_problem(problem)
    assert lineage(type(error)) == lineage(kind)
    assert (error.code, error.status, error.index) == (kind.code, kind.status, 2)
    assert (str(error), error.problem) == ("what happened", problem)


def test_only_what_the_engine_cannot_say_is_extra() -> None:
    extra = {kind.code for kind in sdk_classes()} - {kind.code for kind in engine_classes()}
    assert extra == {"not-installed", "unreachable"}


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in sdk_classes()]
    assert len(set(codes)) == len(codes)


def test_docstring_names_every_class() -> None:
    named = set(re.findall(r"\b[A-Z]\w+", (sdk.__doc__ or "").partition("\n\n")[2]))
    assert {kind.__name__ for kind in sdk_classes()} <= named


def test_current_version_of_conflict() -> None:
    error = sdk.from_problem(engine.VersionConflict("stale", current_version=5).problem())
    assert isinstance(error, sdk.VersionConflict)
    assert error.current_version == 5


@pytest.mark.parametrize("problem", [{}, {"code": "from-the-future", "detail": "x"}, {"code": None}])
def test_unknown_problem_is_the_root(problem: dict[str, object]) -> None:
    assert type(sdk.from_problem(problem)) is sdk.MemosError


def test_plain_error_has_defaults() -> None:
    error = sdk.VersionConflict("stale")
    assert (error.status, error.index, error.current_version) == (500, None, None)
