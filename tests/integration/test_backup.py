"""Backups move between SQLite and PostgreSQL and back, and nothing changes on the way."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memos.cube import Scope
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import BackupRefused, Conflict

ANN = Scope(user_id="ann")
BOB = Scope(tenant="other", user_id="bob")


@pytest.fixture(scope="module")
def helpers() -> dict[str, Any]:
    """What tests/backup fills its stores with."""
    return runpy.run_path(str(Path(__file__).resolve().parents[1] / "backup" / "conftest.py"))


@pytest.fixture
def shared(helpers: dict[str, Any], postgres_database: str, tmp_path: Path, embedder: Embedder) -> Iterator[MemoryOS]:
    """An engine on an empty PostgreSQL."""
    with helpers["opened"](tmp_path / "shared", embedder, database_url=postgres_database) as engine:
        yield engine


def test_to_postgres_and_back(helpers: dict[str, Any], shared: MemoryOS, tmp_path: Path, embedder: Embedder) -> None:
    rows_of: Callable[..., Any] = helpers["rows_of"]
    with helpers["opened"](tmp_path / "one", embedder) as engine:
        for scope in (ANN, BOB):
            helpers["furnish"](engine, scope)
        before = rows_of(engine.database)
        engine.backup(tmp_path / "one.tar.zst")
    assert shared.restore(tmp_path / "one.tar.zst").memories == 6
    assert rows_of(shared.database) == before
    assert [file.problem for file in shared.kv_verify(BOB)] == [None]
    assert shared.recall(ANN, "cats").hits[0].text == "Ann: I adopted two cats"
    assert shared.doctor().healthy
    shared.backup(tmp_path / "two")
    with helpers["opened"](tmp_path / "back", embedder) as engine:
        assert engine.restore(tmp_path / "two").kv_files == 2
        assert rows_of(engine.database) == before
        assert engine.doctor().healthy
    check_refusals(shared, tmp_path)
    check_files_elsewhere(shared)


def check_refusals(shared: MemoryOS, tmp_path: Path) -> None:
    """Neither what is there nor what does not fit is written over; what is told to be replaced is, once."""
    with pytest.raises(Conflict):
        shared.restore(tmp_path / "two")
    damaged = (tmp_path / "one.tar.zst").read_bytes()
    (tmp_path / "one.tar.zst").write_bytes(damaged[:-200])
    with pytest.raises(BackupRefused):
        shared.restore(tmp_path / "one.tar.zst", replace=True)
    shared.forget(ANN.tenant, shared.list(ANN)[0].id)
    assert shared.restore(tmp_path / "two", replace=True).replaced == 2
    assert shared.stats(ANN).memories == 3


def check_files_elsewhere(shared: MemoryOS) -> None:
    """A file that is missing here may be in the data directory of another process: a scrub leaves its row."""
    for path in (shared.settings.home / "kv").rglob("*.safetensors"):
        path.unlink()
    shared.settings.home.joinpath("scrub.json").unlink(missing_ok=True)
    report = shared.scrub()
    assert (report.complete, report.found, report.actions) == (True, {"file-lost": 2}, ())
    assert [one.harm for one in shared.repair().actions] == ["file-lost"] * 2
    assert shared.doctor().healthy
