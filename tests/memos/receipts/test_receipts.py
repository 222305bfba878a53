"""Receipts: what they say, that nobody can change it unseen, and that they are held against the system as it is."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from memos.clock import now_us
from memos.config import Settings
from memos.cube import MemCube, Scope
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import InvalidInput, NotFound, StoreUnavailable
from memos.ids import new_id
from memos.receipts.check import ReceiptCheck
from memos.receipts.receipt import DeletionReceipt
from memos.store import namespaces
from memos.store.activations import Activation, ActivationRepository
from memos.store.job_totals import ended_jobs
from memos.store.jobs import JobRepository, JobState
from memos.store.leases import LeaseRepository, Standing
from memos.wire import Wire

ANN = Scope(user_id="ann")
TEXT = "Ann's locker is number 4711"


@pytest.fixture
def note(engine: MemoryOS) -> MemCube:
    return engine.store_many(ANN, [{"text": TEXT}])[0]


def plain(receipt: DeletionReceipt) -> dict[str, Any]:
    """The receipt as a client keeps it."""
    data: dict[str, Any] = json.loads(receipt.model_dump_json())
    return data


def checked(engine: MemoryOS, receipt: DeletionReceipt | dict[str, Any]) -> ReceiptCheck:
    return engine.verify_receipt("default", receipt)


def failed(engine: MemoryOS, receipt: DeletionReceipt | dict[str, Any]) -> dict[str, str]:
    """What does not hold of a receipt, by name."""
    found = checked(engine, receipt)
    wrong = {check.name: check.finding for check in found.checks if not check.passed}
    assert found.valid is not bool(wrong)
    return wrong


# ------------------------------------------------------------ the signature


def test_anybody_can_check_the_signature(engine: MemoryOS, note: MemCube) -> None:
    """With the public key alone: the JSON without its signature, names in order, no white space."""
    receipt = plain(engine.forget("default", note.id))
    key, signature = (bytes.fromhex(receipt[name]) for name in ("key", "signature"))
    del receipt["signature"]
    data = json.dumps(receipt, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    Ed25519PublicKey.from_public_bytes(key).verify(signature, data)


CHANGES: tuple[dict[str, Any], ...] = (
    {"removed": {"cubes": 2}},
    {"cube_ids": ["01900000-0000-7000-8000-000000000000"]},
    {"pending": ["vector_index"]},
    {"deleted_at": "2020-01-01T00:00:00Z"},
    {"exports": []},
    {"signature": "00" * 64},
    {"signature": "no hex"},
    {"key": "00" * 32},
)


def test_changed_receipt_fails(engine: MemoryOS, note: MemCube, tmp_path: Path) -> None:
    engine.export(ANN, tmp_path / "export")
    receipt = plain(engine.forget("default", note.id))
    for change in CHANGES:
        assert [check.name for check in checked(engine, receipt | change).checks] == ["signature"]
        assert failed(engine, receipt | change).keys() == {"signature"}


def test_what_is_no_receipt(engine: MemoryOS, note: MemCube) -> None:
    of_another_version = plain(engine.forget("default", note.id)) | {"version": 2}
    wrong: tuple[object, ...] = (None, [], "x", {}, {"version": 1}, of_another_version)
    for given in wrong:
        with pytest.raises(InvalidInput, match="receipt"):
            engine.verify_receipt("default", given)


def test_receipt_of_another_tenant_is_unknown(engine: MemoryOS, note: MemCube) -> None:
    with pytest.raises(NotFound):
        engine.verify_receipt("other", engine.forget("default", note.id))


def test_keys_are_of_an_installation_and_a_tenant(tmp_path: Path, embedder: Embedder) -> None:
    keys = []
    for settings in (
        Settings(home=tmp_path / "one"),
        Settings(home=tmp_path / "two", receipt_key="ab" * 32),
        Settings(home=tmp_path / "three", receipt_key="ab" * 32),
    ):
        with MemoryOS(settings, embedder) as engine:
            for tenant in ("default", "other"):
                (cube,) = engine.store_many(Scope(tenant=tenant), [{"text": TEXT}])
                receipt = engine.forget(tenant, cube.id)
                keys.append((receipt.key, receipt.digests))
    assert len(set(keys)) == 4
    assert keys[2:4] == keys[4:6]
    secret = tmp_path / "one" / "receipts" / "secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert not (tmp_path / "two" / "receipts").exists()


def test_nothing_is_forgotten_without_a_key(engine: MemoryOS, note: MemCube, data_folder: Path) -> None:
    (data_folder / "receipts").write_text("in the way")
    with pytest.raises(StoreUnavailable, match="secret"):
        engine.forget("default", note.id)
    assert engine.get("default", note.id) == note


def test_bad_key_is_refused_at_once() -> None:
    with pytest.raises(ValidationError, match="64 hex digits"):
        Settings(receipt_key="short")


# ------------------------------------------------------------ what it says


def test_receipt_does_not_tell_what_was_said(engine: MemoryOS, note: MemCube) -> None:
    engine.update("default", note.id, text="another text", metadata={"word": "4711"})
    receipt = engine.forget("default", note.id)
    assert len(receipt.digests) == 2
    told = receipt.model_dump_json()
    assert "4711" not in told
    assert hashlib.sha256(TEXT.encode()).hexdigest()[:16] not in told


def test_what_was_made_from_it_is_named(engine: MemoryOS, note: MemCube) -> None:
    activation, path = kv_file(engine, note)
    receipt = engine.forget("default", note.id)
    assert (receipt.cube_ids, receipt.derived) == ((note.id,), (activation.cube_id,))
    assert receipt.files == (f"kv/{activation.key}",)
    assert not path.exists()
    assert failed(engine, receipt) == {}


def test_cube_of_a_higher_tier_alone(engine: MemoryOS, note: MemCube) -> None:
    activation, _ = kv_file(engine, note)
    receipt = engine.demote("default", activation.cube_id)
    assert (receipt.cube_ids, receipt.derived, receipt.digests) == ((activation.cube_id,), (), ())
    assert failed(engine, receipt) == {}
    assert engine.get("default", note.id) == note


def kv_file(engine: MemoryOS, note: MemCube) -> tuple[Activation, Path]:
    """Make an activation cube of a note, and something where its file would be."""
    key = new_id().replace("-", "") * 2
    sizes = {"tokens": 100, "head_tokens": 10, "bytes": 1_000, "raw_bytes": 2_000}
    marks = {"fingerprint": "f" * 64, "codec": "raw", "sha256": "0" * 64, "created_at": now_us()}
    activation = Activation(cube_id=new_id(), key=key, sources=((note.id, note.version),), **sizes, **marks)  # type: ignore[arg-type]  # numbers and names
    with engine.database.write() as connection:
        namespace = namespaces.open_for_write(connection, note.scope)
        ActivationRepository(connection, namespace.id).insert(activation, namespace.revision)
    path = engine.settings.home / "kv" / key[:2] / f"{key}.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"keys and values")
    return activation, path


# ------------------------------------------------------------ the system as it is now


def test_restored_memory_fails(engine: MemoryOS, note: MemCube, tmp_path: Path) -> None:
    engine.export(ANN, tmp_path / "export")
    receipt = engine.forget("default", note.id)
    assert failed(engine, receipt) == {}
    engine.import_(ANN, tmp_path / "export")
    assert failed(engine, receipt) == {
        "tables": "found 1 rows of cubes, 1 rows of versions, 1 rows of vectors",
        "contents": f"said by {note.id}",
    }
    engine.forget_all(ANN)
    assert failed(engine, receipt) == {}
    engine.import_(Scope(user_id="bob"), tmp_path / "export")
    assert failed(engine, receipt) == {"tables": "found 1 cubes of others"}


def test_same_words_in_another_memory_are_found(engine: MemoryOS, note: MemCube) -> None:
    (twin,) = engine.store_many(ANN, [{"text": TEXT}])
    engine.store_many(Scope(user_id="bob"), [{"text": TEXT}])  # somebody else's words are theirs
    receipt = engine.forget("default", note.id)
    assert failed(engine, receipt) == {"contents": f"said by {twin.id}"}
    engine.update("default", twin.id, text="something else")
    assert failed(engine, receipt) == {"contents": f"said by {twin.id}"}  # its history says it
    engine.forget("default", twin.id)
    assert failed(engine, receipt) == {}


def test_file_that_could_not_be_removed(engine: MemoryOS, note: MemCube, monkeypatch: pytest.MonkeyPatch) -> None:
    _, path = kv_file(engine, note)
    with monkeypatch.context() as patched:
        patched.setattr("memos.activation.room.Room.remove", lambda *_: False)
        receipt = engine.forget("default", note.id)
    assert receipt.pending == ("kv_files",)
    assert failed(engine, receipt).keys() == {"files", "kv_files"}
    engine.activation.sweep()
    assert not path.exists()
    assert failed(engine, receipt) == {}
    assert checked(engine, receipt).checks[-1].finding == "was pending and is done"


class Death(BaseException):
    """What ends a process."""


def dies(*_: object) -> None:
    raise Death


def test_repetition_ends_what_a_process_left_when_it_died(
    engine: MemoryOS, note: MemCube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction was committed, the file was there still."""
    _, path = kv_file(engine, note)
    request = {"id": note.id, "user_id": None, "idempotency_key": "k"}
    with monkeypatch.context() as patched:
        patched.setattr("memos.activation.room.Room.remove", dies)
        with pytest.raises(Death):
            Wire(engine).call("forget", request)
    assert path.exists()
    receipt = Wire(engine).call("forget", request)
    assert not path.exists()
    assert failed(engine, receipt) == {}


def test_job_that_ends_after_its_cube_is_gone_names_it_nowhere(engine: MemoryOS, note: MemCube) -> None:
    activation, _ = kv_file(engine, note)
    with engine.database.write() as connection:
        namespace = namespaces.open_for_write(connection, ANN)
        job_id = JobRepository(connection, namespace.id).add("promote", {"ids": [note.id]})
        lease = LeaseRepository(connection, namespace.id).take(ANN, job_id)
        assert lease is not None
    receipt = engine.demote("default", activation.cube_id)
    with engine.database.write() as connection:
        result = {"cube_id": activation.cube_id, "made": False}
        LeaseRepository(connection, namespace.id).end(lease, JobState.DONE, result=result)
    job = engine.job("default", job_id)
    assert (job.state, job.result) == (JobState.DONE, None)
    assert failed(engine, receipt) == {}


def test_nothing_is_queued_for_what_was_forgotten_at_the_same_moment(
    engine: MemoryOS, note: MemCube, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = engine.activation.check_promotion
    receipts = []

    def checked_and_then_forgotten(*arguments: Any) -> Any:
        found = check(*arguments)
        receipts.append(engine.forget("default", note.id))
        return found

    monkeypatch.setattr(engine.activation, "check_promotion", checked_and_then_forgotten)
    with pytest.raises(NotFound):
        engine.promote("default", [note.id], to="activation")
    assert engine.jobs(ANN) == []
    assert failed(engine, receipts[0]) == {}


def test_job_that_is_left_without_a_memory_is_counted_as_cancelled(engine: MemoryOS, note: MemCube) -> None:
    with engine.database.write() as connection:
        namespace = namespaces.open_for_write(connection, ANN)
        JobRepository(connection, namespace.id).add("work", {"ids": [note.id]})
    engine.forget("default", note.id)
    with engine.database.read() as connection:
        assert ended_jobs(connection) == {("work", "cancelled"): 1}


def test_reader_that_keeps_the_log(data_folder: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memos.store.database.BUSY_TIMEOUT_MS", 20)
    with MemoryOS(Settings(home=data_folder), embedder) as engine:
        (note,) = engine.store_many(ANN, [{"text": TEXT}])
        with engine.database.read() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM cubes")  # from here on it sees the store as it is
            receipt = engine.forget("default", note.id)
            assert receipt.pending == ("write_ahead_log",)
            assert failed(engine, receipt).keys() == {"write_ahead_log"}
        assert failed(engine, receipt) == {}
        assert b"4711" not in (data_folder / "memos.db-wal").read_bytes()


def test_job_under_way(engine: MemoryOS, note: MemCube) -> None:
    """It has read the memory: what it makes of it is refused at its end, and not before that is all done."""
    with engine.database.write() as connection:
        namespace = namespaces.open_for_write(connection, ANN)
        job_id = JobRepository(connection, namespace.id).add("distil", {"ids": [note.id], "to": "parametric"})
        lease = LeaseRepository(connection, namespace.id).take(ANN, job_id)
        assert lease is not None
    receipt = engine.forget("default", note.id)
    assert receipt.pending == ("jobs",)
    assert failed(engine, receipt).keys() == {"jobs"}
    with engine.database.write() as connection:
        leases = LeaseRepository(connection, lease.namespace_id)
        assert leases.keep(lease) is Standing.CANCELLED  # what its runner is told at its next report
        leases.end(lease, JobState.CANCELLED)
    assert failed(engine, receipt) == {}


def test_answer_given_again_is_signed(engine: MemoryOS, note: MemCube) -> None:
    receipt = engine.forget("default", note.id)
    kept = receipt.model_dump(mode="json", exclude={"key", "signature"})
    assert engine.repeated(kept) == receipt


# ------------------------------------------------------------ exports


@pytest.fixture
def exported(engine: MemoryOS, note: MemCube, tmp_path: Path) -> Path:
    """A file with the note and one of another run."""
    engine.store_many(ANN, [{"text": "of a run", "run_id": "r"}])
    assert engine.export(ANN, tmp_path / "all.jsonl") == 2
    return tmp_path / "all.jsonl"


def test_exports_that_hold_it_are_named(engine: MemoryOS, note: MemCube, exported: Path, tmp_path: Path) -> None:
    engine.export(Scope(user_id="ann", run_id="r"), tmp_path / "run.jsonl")
    engine.export(Scope(user_id="bob"), tmp_path / "none.jsonl")
    engine.export(ANN, tmp_path / "passed.jsonl", kept=False)
    first, passed = engine.forget("default", note.id).exports
    assert first.path_digest == hashlib.sha256(bytes(exported)).hexdigest()
    assert first.digest == hashlib.sha256(exported.read_bytes()).hexdigest()
    assert (first.kind, first.memories, passed.path_digest) == ("memories", 2, None)
    engine.export(ANN, tmp_path / "after.jsonl")
    (later,) = engine.store_many(ANN, [{"text": "later"}])
    assert engine.forget("default", later.id).exports == ()


def test_failed_export_is_not_named(engine: MemoryOS, note: MemCube, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.export(ANN, tmp_path / "x.jsonl", stop)
    with pytest.raises(InvalidInput):
        engine.export(ANN, tmp_path / "none" / "x.jsonl")
    assert engine.forget("default", note.id).exports == ()


def test_forgotten_while_it_is_exported(
    data_folder: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file will hold what its snapshot had, and the log is emptied once that is read."""
    monkeypatch.setattr("memos.store.database.BUSY_TIMEOUT_MS", 20)
    receipts = []
    with MemoryOS(Settings(home=data_folder), embedder) as engine:
        (note,) = engine.store_many(ANN, [{"text": TEXT}])
        engine.export(ANN, tmp_path / "x.jsonl", lambda *_: receipts.append(engine.forget("default", note.id)))
        assert TEXT in (tmp_path / "x.jsonl").read_text()
        assert [one.digest for one in receipts[0].exports] == [None]
        assert receipts[0].pending == ("write_ahead_log",)
        engine.database.scrub_again()
        assert b"4711" not in (data_folder / "memos.db-wal").read_bytes()
