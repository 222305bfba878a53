"""The doctor finds what is wrong, says what to do, and changes nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from memos.config import Settings
from memos.cube import Scope
from memos.doctor import DoctorReport, Status, diagnose
from memos.embedding.base import Embedder
from memos.engine import MemoryOS

ANN = Scope(user_id="ann")


@pytest.fixture
def stored(data_folder: Path, embedder: Embedder) -> Settings:
    """A closed store with three memories."""
    settings = Settings(home=data_folder)
    with MemoryOS(settings, embedder) as engine:
        engine.store_many(ANN, [{"text": f"memory {number}"} for number in range(3)])
    return settings


def run(settings: Settings, *statements: str) -> None:
    with closing(sqlite3.connect(settings.home / "memos.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def found(report: DoctorReport) -> dict[str, tuple[str, str]]:
    return {finding.name: (finding.status, finding.message) for finding in report.findings}


def test_healthy_store(stored: Settings, embedder: Embedder) -> None:
    report = diagnose(stored, embedder)
    worst = {finding.name for finding in report.findings if finding.status is Status.ERROR}
    assert (report.healthy, worst) == (True, set())
    [health] = report.namespaces
    assert (health.name, health.memories, health.counted) == ("default/ann", 3, 3)
    assert report.sizes["database"] > 0
    assert report.free_bytes is not None


def test_open_engine_looks_at_itself(engine: MemoryOS) -> None:
    engine.store_many(ANN, [{"text": "one"}])
    assert engine.doctor().healthy


def test_nothing_stored_yet(tmp_path: Path, embedder: Embedder) -> None:
    report = diagnose(Settings(home=tmp_path / "new"), embedder)
    assert report.healthy
    assert "nothing" in found(report)["store"][1]
    assert not (tmp_path / "new").exists()


def test_open_store_names_holder(engine: MemoryOS, embedder: Embedder) -> None:
    engine.store_many(ANN, [{"text": "one"}])
    report = diagnose(engine.settings, embedder)
    assert found(report)["lock"][0] == "warning"
    assert report.healthy
    assert "index" not in found(report)


@pytest.mark.parametrize(
    ("damage", "name", "advice"),
    [
        ("UPDATE alembic_version SET version_num = '9999'", "schema", "upgrade the package"),
        ("UPDATE namespaces SET memories = 5", "memories", "doctor --repair"),
        ("DELETE FROM versions WHERE rowid = 2", "memories", "default/ann"),
        ("DELETE FROM cubes WHERE rowid = 2", "foreign keys", "versions"),
        ("DELETE FROM vectors WHERE rowid = 2", "vectors", "reindex --embedder"),
        ("UPDATE embedders SET identity = 'other'", "embedder", "MEMOS_EMBEDDER"),
    ],
)
def test_damage_is_found(stored: Settings, embedder: Embedder, damage: str, name: str, advice: str) -> None:
    run(stored, damage)
    report = diagnose(stored, embedder)
    status, message = found(report)[name]
    assert (report.healthy, status) == (False, "error")
    assert advice in message


def test_file_that_is_no_database(stored: Settings, embedder: Embedder) -> None:
    (stored.home / "memos.db").write_bytes(b"not a database at all" * 100)
    report = diagnose(stored, embedder)
    assert found(report)["database"][0] == "error"


def test_torn_page(stored: Settings, embedder: Embedder) -> None:
    path = stored.home / "memos.db"
    data = bytearray(path.read_bytes())
    place = data.rindex(b"memory 1")
    data[place - 600 : place + 600] = bytes(1_200)
    path.write_bytes(data)
    report = diagnose(stored, embedder)
    assert not report.healthy


def test_interrupted_reindex_is_a_warning(stored: Settings, embedder: Embedder, other_embedder: Embedder) -> None:
    run(
        stored,
        "INSERT INTO embedders (id, identity, dimension, active, created_at) VALUES (9, 'new', 32, 0, 0)",
        "INSERT INTO vectors SELECT cube_id, version, 9, namespace_id, vector, enriched FROM vectors LIMIT 1",
    )
    report = diagnose(stored, embedder)
    assert found(report)["vectors"][0] == "warning"
    assert report.healthy


@pytest.fixture
def indexed(data_folder: Path, embedder: Embedder) -> Settings:
    """A closed store with a collection for its only namespace."""
    settings = Settings(home=data_folder, index_threshold=2)
    with MemoryOS(settings, embedder) as engine:
        engine.store_many(ANN, [{"text": f"memory {number}"} for number in range(3)])
        engine.relay.drain()
    return settings


def test_complete_index(indexed: Settings, embedder: Embedder) -> None:
    report = diagnose(indexed, embedder)
    assert found(report)["index"][0] == "ok"
    assert report.namespaces[0].indexed == 3


def test_index_behind_is_a_warning(indexed: Settings, embedder: Embedder) -> None:
    run(indexed, "UPDATE namespaces SET revision = revision + 2")
    report = diagnose(indexed, embedder)
    assert (found(report)["index"][0], report.healthy) == ("warning", True)
    assert report.namespaces[0].index_lag == 2


def test_incomplete_index(indexed: Settings, embedder: Embedder) -> None:
    with MemoryOS(indexed, embedder) as engine:
        [name] = engine.index.names()
        engine.index.remove(name, [engine.list(ANN)[0].id])
    report = diagnose(indexed, embedder)
    assert found(report)["index"] == (
        "error",
        "not what the database says for default/ann; `memos doctor --repair` or `memos reindex` builds it",
    )
    with MemoryOS(indexed, embedder) as engine:
        engine.reindex()
    assert diagnose(indexed, embedder).healthy


def test_little_space(stored: Settings, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memos.doctor.storage.free_bytes", lambda home: 1_000)
    status, message = found(diagnose(stored, embedder))["disk"]
    assert (status, "make room" in message) == ("error", True)


def test_nothing_is_changed(stored: Settings, embedder: Embedder) -> None:
    before = (stored.home / "memos.db").read_bytes()
    diagnose(stored, embedder)
    assert (stored.home / "memos.db").read_bytes() == before
