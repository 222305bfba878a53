"""What is restored equals what was backed up, row for row, and its files can be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memos.activation.bundle import bundle_of, note_of
from memos.cube import Scope
from memos.engine import MemoryOS
from memos.errors import BackupRefused, Conflict, EmbedderMismatch, InvalidInput, LegalHold, NotFound, StoreClosed
from memos.store import namespaces
from memos.store.activations import ActivationRepository
from memos.store.jobs import JobRepository
from memos.store.leases import LeaseRepository

ANN = Scope(user_id="ann")
BOB = Scope(tenant="other", user_id="bob")
Opener = Callable[..., MemoryOS]
Packer = Callable[[str], Path]


@pytest.mark.parametrize("name", ["backup", "backup.tar.zst"])
def test_all_of_a_store(
    full: Path, reopened: Opener, all_rows: Callable[[MemoryOS], Any], tmp_path: Path, name: str
) -> None:
    with reopened(full) as engine:
        before = all_rows(engine)
        made = engine.backup(tmp_path / name)
    assert (made.namespaces, made.memories, made.kv_files, made.adapters, made.left_out) == (2, 6, 2, 4, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "data"])
    with reopened(tmp_path / "new") as engine:
        report = engine.restore(tmp_path / name)
        assert report.model_dump(include={"id", "memories", "kv_files", "adapters", "kv_dropped", "replaced"}) == {
            "id": made.id,
            "memories": 6,
            "kv_files": 2,
            "adapters": 4,
            "kv_dropped": 0,
            "replaced": 0,
        }
        assert all_rows(engine) == before
        assert engine.recall(ANN, "cats").hits[0].text == "Ann: I adopted two cats"
        check_files(engine, ANN)
        check_files(engine, BOB)
        assert engine.doctor().healthy


def check_files(engine: MemoryOS, scope: Scope) -> None:
    """The KV file and the adapters of a user can be used, and are found under the names this store gives them."""
    assert [file.problem for file in engine.kv_verify(scope)] == [None]
    notes = engine.list(scope)
    with engine.database.read() as connection:
        namespace = namespaces.find(connection, scope)
        assert namespace is not None
        (activation,) = ActivationRepository(connection, namespace.id).all()
    bundle = bundle_of(map(note_of, notes))
    place = (scope.user_id, bundle.digest, "f" * 64, "raw")
    assert activation.key == engine.activation._files.key(scope.tenant, *place, tokens=range(1, 7))
    for record in engine.parametric._index.all(scope):
        assert engine.parametric._registry.read(scope, record).digest == record.digest


def test_secrets_stay_where_they_are(full: Path, packed: Packer, reopened: Opener, tmp_path: Path) -> None:
    path = packed("b")
    secrets = [(full / folder / "secret").read_bytes() for folder in ("kv", "adapters")]
    files = [file.read_bytes() for file in path.rglob("*") if file.is_file()]
    assert not any(secret in data or secret.hex().encode() in data for secret in secrets for data in files)
    with reopened(tmp_path / "new") as engine:
        engine.restore(path)
    assert (tmp_path / "new" / "kv" / "secret").read_bytes() not in secrets


def test_one_user_alone(full: Path, reopened: Opener, tmp_path: Path) -> None:
    with reopened(full) as engine:
        made = engine.backup(tmp_path / "b.tar", user_id="ann")
        assert engine.backup(tmp_path / "c.tar", tenant="other").memories == 3
        with pytest.raises(NotFound):
            engine.backup(tmp_path / "d.tar", user_id="nobody")
    assert (made.namespaces, made.memories, (tmp_path / "d.tar").exists()) == (1, 3, False)
    with reopened(tmp_path / "new") as engine:
        engine.restore(tmp_path / "b.tar", tenant="default")
        assert (engine.stats(ANN).memories, engine.stats(BOB).memories) == (3, 0)
        with pytest.raises(BackupRefused, match="another tenant"):
            engine.restore(tmp_path / "c.tar", tenant="default")


def test_users_with_memories_are_replaced_only_if_told(full: Path, packed: Packer, reopened: Opener) -> None:
    path = packed("b.tar.zst")
    with reopened(full, index_threshold=2) as engine:
        engine.relay.drain()
        engine.forget("default", engine.list(ANN)[0].id)
        (added,) = engine.store_many(ANN, [{"text": "Ann: a dog it is"}])
        assert engine.recall(ANN, "dog").hits[0].id == added.id
        with pytest.raises(Conflict, match="--replace"):
            engine.restore(path)
        assert len(engine.list(ANN)) == 3
        (name, *_), before = sorted(engine.index.names()), engine.stats(ANN).index_lag
        held = engine.hold("default", user_id=ANN.user_id)
        with pytest.raises(LegalHold):
            engine.restore(path, replace=True)
        engine.release("default", held.id)
        assert engine.restore(path, replace=True).replaced == 2
        with engine.database.write() as connection:  # a relay that was at it says how far it had come
            revision = namespaces.read(connection, 1).revision
            namespaces.set_index(connection, 1, name, revision - before - 1)
        engine.relay.drain()
        assert [hit.text for hit in engine.recall(ANN, "cats dog", top_k=1).hits] == ["Ann: I adopted two cats"]
        assert added.id not in {cube.id for cube in engine.list(ANN)}
        check_files(engine, ANN)
        assert engine.doctor().healthy
    assert len([*full.joinpath("kv").rglob("*.safetensors")]) == 2


def test_logs_of_the_same_store_are_kept_once(full: Path, packed: Packer, reopened: Opener) -> None:
    path = packed("b")
    with reopened(full) as engine:
        engine.forget_all(ANN)
        engine.restore(path, replace=True)
        engine.restore(path, replace=True)
        with engine.database.read() as connection:
            said = connection.exec_driver_sql("SELECT action FROM audit WHERE namespace_id = 1 ORDER BY id").scalars()
            logged = list(said)
    assert logged == ["store", "update", "kv_settings", *["published"] * 2, "forget_all", "restore", "restore"]


def test_what_was_forgotten_is_not_in_it(full: Path, reopened: Opener, tmp_path: Path) -> None:
    with reopened(full) as engine:
        (cube,) = engine.store_many(ANN, [{"text": "the token is xyzzyplugh", "metadata": {"token": "xyzzyplugh"}}])
        engine.backup(tmp_path / "before")
        engine.forget("default", cube.id)
        engine.backup(tmp_path / "after")
    token = [name for name in ("before", "after") if holds(tmp_path / name, b"xyzzyplugh")]
    assert token == ["before"]


def holds(folder: Path, token: bytes) -> bool:
    return any(token in path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_files_that_are_no_more_are_left_out(full: Path, reopened: Opener, tmp_path: Path, damage: str) -> None:
    for path in [*full.rglob("*.safetensors")]:
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-1] + b"!")
    with reopened(full) as engine:
        made = engine.backup(tmp_path / "b", user_id="ann")
        assert (made.kv_files, made.adapters, made.left_out) == (0, 0, 3)
    with reopened(tmp_path / "new") as engine:
        report = engine.restore(tmp_path / "b")
        assert (report.kv_dropped, report.adapters_dropped, report.retraining) == (1, 2, 1)
        assert (engine.stats(ANN).memories, engine.stats(ANN).activations, engine.adapters(ANN)) == (3, 0, [])
        assert engine.doctor().healthy


def test_files_without_room_are_left_out(packed: Packer, reopened: Opener, tmp_path: Path) -> None:
    path = packed("b.tar")
    with reopened(tmp_path / "new", kv_bytes=10, adapter_bytes=10) as engine:
        report = engine.restore(path)
        assert (report.kv_dropped, report.adapters_dropped, engine.stats(ANN).memories) == (2, 4, 3)


def test_jobs_go_on(full: Path, reopened: Opener, tmp_path: Path) -> None:
    with reopened(full) as engine:
        with engine.database.write() as connection:
            job_id = JobRepository(connection, 1).add("retrain", {"ids": [], "to": "parametric"})
            LeaseRepository(connection, 1).take(ANN, job_id)
        engine.backup(tmp_path / "b")
    with reopened(tmp_path / "new", working=True) as engine:
        engine.restore(tmp_path / "b")
        while engine.job("default", job_id).state != "done":
            pass


def test_other_embedder_is_refused(packed: Packer, tmp_path: Path, other_embedder: Any) -> None:
    from memos.config import Settings

    path = packed("b.tar")
    with (
        MemoryOS(Settings(home=tmp_path / "new"), other_embedder) as engine,
        pytest.raises(EmbedderMismatch, match="test:hash-64"),
    ):
        engine.restore(path)


def test_places_that_are_taken(full: Path, reopened: Opener, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    (tmp_path / "old.tar").write_bytes(b"an older backup")
    with reopened(full) as engine:
        for path in (tmp_path / "taken", full / "kv" / "x.tar", tmp_path / "no" / "folder" / "x.tar"):
            with pytest.raises(InvalidInput):
                engine.backup(path)
        engine.backup(tmp_path / "old.tar")
    assert (tmp_path / "old.tar").stat().st_size > 10_000
    assert (tmp_path / "old.tar").stat().st_mode & 0o777 == 0o600
    with pytest.raises(StoreClosed):
        engine.backup(tmp_path / "y.tar")


def test_empty_store(reopened: Opener, tmp_path: Path) -> None:
    with reopened(tmp_path / "one") as engine:
        assert engine.backup(tmp_path / "b.tar").namespaces == 0
    with reopened(tmp_path / "two") as engine:
        assert engine.restore(tmp_path / "b.tar").namespaces == 0
        assert engine.stats(ANN).memories == 0
