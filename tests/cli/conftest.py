"""The command line in this process, on a store of its own with the test embedder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from memos.cli.app import app
from memos.cli.session import Session
from memos.embedding.base import Embedder
from memos.runtime.host import ModelHost


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The JSON on stdout."""
        return json.loads(self.out)

    @property
    def problem(self) -> dict[str, Any]:
        """The JSON on stderr."""
        problem: dict[str, Any] = json.loads(self.err)
        return problem


Memos = Callable[..., Answer]


@pytest.fixture
def memos(data_folder: Path, embedder: Embedder) -> Memos:
    """Run ``memos`` with arguments; ``input`` is its stdin."""
    return _runner(Session(home=data_folder, embedder=embedder))


@pytest.fixture
def memos_with_model(data_folder: Path, embedder: Embedder, models: ModelHost) -> Memos:
    """The same with the shared language model, for commands that need one."""
    return _runner(Session(home=data_folder, embedder=embedder, models=models))


def _runner(session: Session) -> Memos:
    def run(*arguments: str, input: str | bytes | None = None) -> Answer:  # noqa: A002
        result = CliRunner().invoke(app, [*arguments], input=input, obj=session)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Answer(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def stored(memos: Memos) -> str:
    """A stored memory's id."""
    answer = memos("store", "Ann: I adopted a cat", "--metadata", '{"topic": "pets"}', "--json")
    identifier: str = answer.data["id"]
    return identifier
