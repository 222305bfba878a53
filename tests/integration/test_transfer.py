"""Exports move between SQLite and PostgreSQL, and many users may be given the same file at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from memos.config import Settings
from memos.cube import Scope
from memos.doctor import diagnose
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.transfer.record import MemoryRecord

ANN = Scope(user_id="ann")


@pytest.fixture
def shared(postgres_database: str, tmp_path: Path, embedder: Embedder) -> Iterator[MemoryOS]:
    """An engine on PostgreSQL."""
    settings = Settings(home=tmp_path / "index", database_url=postgres_database)
    with MemoryOS(settings, embedder) as engine:
        yield engine


@pytest.fixture
def exported(engine: MemoryOS, tmp_path: Path) -> Path:
    """An export of an embedded store."""
    metadata = {"z": 1, "a": [1.5, None, {"deep": "ü\u2028"}]}
    first, _ = engine.store_many(ANN, [{"text": "one", "metadata": metadata}, {"text": "two"}])
    engine.update("default", first.id, text="one, changed")
    engine.export(ANN, tmp_path / "x.jsonl")
    return tmp_path / "x.jsonl"


def records(path: Path) -> list[MemoryRecord]:
    return [MemoryRecord.model_validate_json(line) for line in path.read_bytes().split(b"\n")[1:-1]]


def test_export_moves_to_postgres(shared: MemoryOS, exported: Path, tmp_path: Path) -> None:
    assert shared.import_(ANN, exported, strict=True).imported == 2
    shared.export(ANN, tmp_path / "y.jsonl")
    assert records(tmp_path / "y.jsonl") == records(exported)
    assert shared.recall(ANN, "one").hits[0].text == "one, changed"


def test_many_users_import_one_file_at_once(shared: MemoryOS, exported: Path) -> None:
    users = [Scope(user_id=f"user-{number}") for number in range(6)]
    with ThreadPoolExecutor(len(users)) as pool:
        reports = list(pool.map(lambda user: shared.import_(user, exported), users))
    assert [report.imported for report in reports] == [2] * len(users)
    ids = [cube.id for user in users for cube in shared.list(user)]
    assert len(set(ids)) == 2 * len(users)


def test_doctor_looks_at_postgres(shared: MemoryOS, exported: Path, embedder: Embedder) -> None:
    shared.import_(ANN, exported)
    assert shared.doctor().healthy
    beside = diagnose(shared.settings, embedder)
    assert beside.healthy
    assert [health.counted for health in beside.namespaces] == [2]
    lost = shared.settings.model_copy(update={"database_url": "postgresql+psycopg://u@127.0.0.1:9/x"})
    assert not diagnose(lost, embedder).healthy
