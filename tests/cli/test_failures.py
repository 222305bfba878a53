"""Exit codes and messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from memos.cli.app import app
from memos.cli.failures import exit_code
from memos.cli.session import Session
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import MemosError as EngineError
from memos_sdk import errors

Memos = Callable[..., Any]


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["get", "nope"], 3, "not-found"),
        (["forget", "nope"], 3, "not-found"),
        (["store", " "], 2, "invalid-text"),
        (["store", "x", "--metadata", "{"], 2, "invalid-input"),
        (["store", "x", "--metadata", "[]"], 2, "invalid-input"),
        (["store", "x", "--expires-at", "2001-01-01"], 2, "invalid-input"),
        (["store", "x", "--user", ""], 2, "invalid-input"),
        (["recall", "x", "--top-k", "0"], 2, "invalid-input"),
        (["recall", "x", "--top-k", "-3"], 2, "invalid-input"),
        (["recall", "x", "--top-k", "many"], 2, "invalid-input"),
        (["recall", "x", "--filters", '{"metadata.a": {"$no": 1}}'], 2, "invalid-filter"),
        (["recall", "x", "--as-of", "soon"], 2, "invalid-input"),
        (["import", "missing.jsonl"], 2, "invalid-input"),
        (["export", "/"], 2, "invalid-input"),
        (["forget"], 2, "invalid-input"),
        (["forget", "x", "--all"], 2, "invalid-input"),
        (["nonsense"], 2, "invalid-input"),
        (["store"], 2, "invalid-input"),
        (["stats", "--nonsense"], 2, "invalid-input"),
    ],
)
def test_exit_code(memos: Memos, arguments: list[str], code: int, problem: str) -> None:
    plain = memos(*arguments)
    assert (plain.code, plain.out, "Traceback" in plain.err) == (code, "", False)
    assert plain.err.strip()
    answer = memos("--json", *arguments)
    assert (answer.code, answer.out, answer.problem["code"]) == (code, "", problem)
    assert {"type", "title", "status", "detail"} <= answer.problem.keys()


def test_stale_version_is_conflict(memos: Memos, stored: str) -> None:
    answer = memos("update", stored, "--text", "x", "--expected-version", "7", "--json")
    assert (answer.code, answer.problem["current_version"]) == (4, 1)


def test_store_in_use(memos: Memos, engine: MemoryOS) -> None:
    assert memos("list").code == 5
    assert memos("reindex", "--json").problem["code"] == "store-in-use"
    assert memos("doctor").code == 0


def test_store_of_other_embedder(stored: str, data_folder: Path, other_embedder: Embedder) -> None:
    session = Session(home=data_folder, embedder=other_embedder)
    answer = CliRunner().invoke(app, ["recall", "x"], obj=session)
    assert (answer.exit_code, "memos reindex --embedder" in answer.stderr) == (4, True)
    assert CliRunner().invoke(app, ["doctor"], obj=session).exit_code == 1


def test_bad_setting(memos: Memos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMOS_CACHE_BYTES", "-1")
    for command in (["stats"], ["doctor"], ["reindex"]):
        answer = memos(*command)
        assert (answer.code, "MEMOS_CACHE_BYTES" in answer.err) == (2, True)


def kinds(root: type[EngineError]) -> list[type[EngineError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in kinds(child))]


@pytest.mark.parametrize("kind", kinds(EngineError))
def test_every_error_has_exit_code(kind: type[EngineError]) -> None:
    code = exit_code(errors.from_problem(kind("x").problem()))
    expected = {"InvalidInput": 2, "NotFound": 3, "Conflict": 4}
    named = [expected[parent.__name__] for parent in kind.__mro__ if parent.__name__ in expected]
    assert code == (named[0] if named else 5)
