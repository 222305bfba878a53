"""The rows of adapters: series and versions, death with their notes in one transaction, and nobody else's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from memos.clock import now_us
from memos.config import Settings
from memos.cube import MemCube, Scope
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import NotFound
from memos.ids import new_id
from memos.store import namespaces
from memos.store.adapters import AdapterRecord, AdapterRepository, AdapterState, Payload
from memos.store.derived import Derived
from memos.store.scoped import unfinished_jobs

SCOPE = Scope(user_id="u")
STRANGER = Scope(user_id="stranger")
BASE = "b" * 64


@contextmanager
def rows(engine: MemoryOS, scope: Scope = SCOPE) -> Iterator[tuple[AdapterRepository, int]]:
    with engine.database.write() as connection:
        namespace = namespaces.open_for_write(connection, scope)
        yield AdapterRepository(connection, namespace.id), namespace.revision


def stored(engine: MemoryOS, *texts: str, scope: Scope = SCOPE) -> list[MemCube]:
    return engine.store_many(scope, [{"text": text} for text in texts])


def made(engine: MemoryOS, *notes: MemCube, scope: Scope = SCOPE, **fields: Any) -> AdapterRecord:
    given = {
        "cube_id": new_id(),
        "key": new_id().replace("-", "") * 2,
        "digest": "d" * 64,
        "base": BASE,
        "payload": Payload.LORA,
        "name": None,
        "state": AdapterState.PUBLISHED,
        "rank": 8,
        "bytes": 1_000,
        "tokens": 0,
        "gate": {"passed": True},
        "provenance": {"options": {"epochs": 3}},
        "created_at": now_us(),
        "sources": tuple((note.id, note.version) for note in notes),
    }
    with rows(engine, scope) as (repository, revision):
        return repository.insert(AdapterRecord(**{**given, **fields}), revision)


def all_of(engine: MemoryOS, scope: Scope = SCOPE) -> list[AdapterRecord]:
    with rows(engine, scope) as (repository, _):
        return repository.all()


def test_row_comes_back_as_it_was(engine: MemoryOS) -> None:
    one, two = stored(engine, "one", "two")
    record = made(engine, two, one, name="facts", payload=Payload.CARTRIDGE, gate=None, tokens=7)
    assert all_of(engine) == [record]
    with rows(engine) as (repository, _):
        assert repository.by_key(record.key or "") == record
        assert repository.versions(record.series) == [record]


def test_one_of_a_series_is_published(engine: MemoryOS) -> None:
    one, two = stored(engine, "one", "two")
    made(engine, one, two)
    made(engine, two, one, state=AdapterState.REJECTED, key=None)
    made(engine, two, one)
    assert [(record.version, record.state.value) for record in all_of(engine)] == [
        (1, "superseded"),
        (2, "rejected"),
        (3, "published"),
    ]
    made(engine, one, two, base="c" * 64)
    assert all_of(engine)[-1].version == 1, "of another model, another series"


def test_nameless_imports_are_series_of_their_own(engine: MemoryOS) -> None:
    stored(engine, "one")
    made(engine, digest="1" * 64)
    made(engine, digest="2" * 64)
    assert [record.state for record in all_of(engine)] == [AdapterState.PUBLISHED] * 2
    with rows(engine) as (repository, _):
        assert repository.published(BASE) == []


def test_note_adapter_and_job_change_in_one_transaction(engine: MemoryOS) -> None:
    one, two = stored(engine, "one", "two")
    record = made(engine, one, two)
    with suppress(RuntimeError), engine.database.write() as connection:
        namespace = namespaces.open_for_write(connection, SCOPE)
        gone = Derived(connection, namespace.id).invalidate([two.id])
        assert (gone.adapter_keys, gone.digests, len(gone.jobs)) == ((record.key,), (record.digest,), 1)
        raise RuntimeError
    assert all_of(engine) == [record]
    with engine.database.read() as connection:
        assert unfinished_jobs(connection) == []


def test_many_notes_of_many_adapters(engine: MemoryOS) -> None:
    notes = stored(engine, *(f"note {number}" for number in range(1_200)))
    made(engine, *notes)
    made(engine, *notes[:600], name="half")
    with rows(engine) as (repository, _):
        assert len(repository.published(BASE, [note.id for note in notes])) == 2
        assert len(repository.published(BASE, [notes[900].id])) == 1
        assert len(repository.invalidate([note.id for note in notes])) == 2
    assert all_of(engine) == []
    assert engine.doctor().healthy


def test_other_namespaces_see_nothing(engine: MemoryOS) -> None:
    (note,) = stored(engine, "one")
    record = made(engine, note)
    stored(engine, "mine", scope=STRANGER)
    with rows(engine, STRANGER) as (repository, revision):
        assert repository.all() == []
        assert repository.get(record.cube_id) is None
        assert repository.by_key(record.key or "") is None
        assert repository.versions(record.series) == []
        assert repository.published(BASE, [note.id]) == []
        assert repository.cube(record.cube_id, STRANGER) is None
        repository.count_use([record.cube_id])
        repository.reinstate(record, revision, now_us())
        assert repository.remove([record.cube_id]) == []
        assert repository.invalidate([note.id]) == []
        assert repository.totals() == {"count": 0, "bytes": 0, "hits": 0}
    with pytest.raises(NotFound):
        engine.demote("default", record.cube_id, user_id="stranger")
    assert all_of(engine) == [record]


def test_memories_open_and_are_forgotten_without_the_secret(data_folder: Path, embedder: Embedder) -> None:
    """Adapters are an extra."""
    settings = Settings(home=data_folder)
    with MemoryOS(settings, embedder) as engine:
        (note,) = stored(engine, "one")
        record = made(engine, note)
    assert record.key is not None
    folder = data_folder / "adapters" / record.key[:2]
    folder.mkdir(parents=True)
    (folder / f"{record.key}.safetensors").write_bytes(b"what was learnt from a memory")
    (data_folder / "adapters" / "secret").write_bytes(b"short")
    with MemoryOS(settings, embedder) as engine:
        receipt = engine.forget("default", note.id)
    assert (receipt.removed["adapters"], receipt.pending, list(folder.iterdir())) == (1, (), [])


def test_file_that_cannot_be_removed_is_told_and_swept_later(data_folder: Path, embedder: Embedder) -> None:
    with MemoryOS(Settings(home=data_folder), embedder) as engine:
        (note,) = stored(engine, "one")
        record = made(engine, note)
        assert record.key is not None
        stuck = data_folder / "adapters" / record.key[:2] / f"{record.key}.safetensors"
        (stuck / "x").mkdir(parents=True)  # unlink fails on a folder
        assert engine.forget("default", note.id).pending == ("adapter_files",)
        (stuck / "x").rmdir()
        stuck.rmdir()
        stuck.write_bytes(b"what was learnt from a memory")
    with MemoryOS(Settings(home=data_folder), embedder):
        assert not stuck.exists()


def test_opening_and_listing_loads_no_model_library(data_folder: Path, embedder: Embedder) -> None:
    with MemoryOS(Settings(home=data_folder), embedder) as engine:
        made(engine, *stored(engine, "one"))
    (data_folder / "adapters").mkdir()
    code = (
        "import sys; from pathlib import Path; from memos.config import Settings; from memos.engine import MemoryOS\n"
        "from memos.cube import Scope\n"
        "class E:\n    identity='test:hash-64'; dimension=64\n"
        f"with MemoryOS(Settings(home=Path({str(data_folder)!r})), E()) as engine:\n"
        "    (one,) = engine.adapters(Scope(user_id='u')); engine.remove_adapter('default', one.cube_id)\n"
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
