"""The index of KV files: lineage, liveness, and death with the notes it was made from."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from memos.clock import now_us
from memos.config import Settings
from memos.cube import Kind, MemCube, Scope, State
from memos.engine import MemoryOS
from memos.errors import InvalidInput, NotFound
from memos.ids import new_id
from memos.store import namespaces
from memos.store.activations import Activation, ActivationRepository

SCOPE = Scope(user_id="u")


@contextmanager
def index(engine: MemoryOS, scope: Scope = SCOPE) -> Iterator[tuple[ActivationRepository, int]]:
    with engine.database.write() as connection:
        namespace = namespaces.open_for_write(connection, scope)
        yield ActivationRepository(connection, namespace.id), namespace.revision


def stored(engine: MemoryOS, *texts: str, scope: Scope = SCOPE, **more: Any) -> list[MemCube]:
    return engine.store_many(scope, [{"text": text, **more} for text in texts])


def made(engine: MemoryOS, *notes: MemCube, scope: Scope = SCOPE, fingerprint: str = "f" * 64) -> Activation:
    activation = Activation(
        cube_id=new_id(),
        key=new_id().replace("-", "") * 2,
        fingerprint=fingerprint,
        codec="raw",
        tokens=100,
        head_tokens=10,
        bytes=1_000,
        raw_bytes=2_000,
        sha256="0" * 64,
        created_at=now_us(),
        sources=tuple((note.id, note.version) for note in notes),
    )
    with index(engine, scope) as (repository, revision):
        repository.insert(activation, revision)
    return activation


def all_of(engine: MemoryOS, scope: Scope = SCOPE) -> list[Activation]:
    with index(engine, scope) as (repository, _):
        return repository.all()


def test_index_keeps_the_order_of_sources(engine: MemoryOS) -> None:
    one, two, three = stored(engine, "one", "two", "three")
    activation = made(engine, three, one, two)
    assert all_of(engine) == [activation]
    cube = engine.get("default", activation.cube_id)
    assert cube.kind is Kind.ACTIVATION
    assert [parent.cube_id for parent in cube.provenance.parents] == [three.id, one.id, two.id]
    assert (cube.metadata["tokens"], cube.text) == (100, None)


def test_derived_cubes_are_no_memories(engine: MemoryOS) -> None:
    notes = stored(engine, "one", "two")
    made(engine, *notes)
    assert [cube.id for cube in engine.list(SCOPE)] == [note.id for note in notes]
    statistics = engine.stats(SCOPE)
    assert (statistics.memories, statistics.activations, statistics.activation_bytes) == (2, 1, 1_000)
    assert engine.doctor().healthy


@pytest.mark.parametrize("change", ["update", "forget", "archive", "forget_all", "metadata"])
def test_change_of_a_source_kills_what_was_made_from_it(engine: MemoryOS, change: str) -> None:
    one, two, other = stored(engine, "one", "two", "other")
    made(engine, one, two)
    kept = made(engine, other)
    if change == "update":
        engine.update("default", two.id, text="two, changed")
    elif change == "metadata":
        engine.update("default", two.id, metadata={"a": 1})
    elif change == "forget":
        assert engine.forget("default", two.id).removed["activations"] == 1
    elif change == "archive":
        engine.move("default", two.id, State.ACTIVATED)
        assert len(all_of(engine)) == 2, "a state that is recalled keeps it"
        engine.move("default", two.id, State.ARCHIVED)
    else:
        engine.forget_all(SCOPE)
    assert all_of(engine) == ([] if change == "forget_all" else [kept])
    assert engine.doctor().healthy


def test_only_cubes_of_the_model_are_found(engine: MemoryOS) -> None:
    one, two = stored(engine, "one", "two")
    mine, _ = made(engine, one), made(engine, one, fingerprint="e" * 64)
    with index(engine) as (repository, _revision):
        assert repository.touching([one.id], "f" * 64) == [mine]
        assert repository.touching([two.id], "f" * 64) == []


def test_other_namespaces_see_nothing(engine: MemoryOS) -> None:
    (note,) = stored(engine, "one")
    activation = made(engine, note)
    stranger = Scope(user_id="stranger")
    stored(engine, "mine", scope=stranger)
    with index(engine, stranger) as (repository, _):
        assert repository.all() == []
        assert repository.get(activation.cube_id) is None
        assert repository.by_key(activation.key) is None
        assert repository.touching([note.id], "f" * 64) == []
        assert repository.live([(note.id, 1)], stranger, now_us()) == set()
        assert repository.remove([activation.cube_id]) == {}
        assert repository.invalidate([note.id]) == {}
    with pytest.raises(NotFound):
        engine.get("default", activation.cube_id, user_id="stranger")
    with pytest.raises(NotFound):
        engine.demote("default", activation.cube_id, user_id="stranger")
    with pytest.raises(NotFound):
        engine.get("another tenant", activation.cube_id)
    assert all_of(engine) == [activation]


def test_live_sources_are_current_recallable_and_within_the_scope(engine: MemoryOS) -> None:
    (plain,) = stored(engine, "one")
    (updated,) = stored(engine, "two")
    (agents,) = stored(engine, "three", agent_id="a")
    (expired,) = stored(engine, "four", expires_at="2100-01-01")
    engine.update("default", updated.id, text="two, changed")
    sources = {(cube.id, 1) for cube in (plain, updated, agents, expired)}
    with index(engine) as (repository, _):
        assert repository.live(sources, SCOPE, now_us()) == {(plain.id, 1), (agents.id, 1), (expired.id, 1)}
        assert repository.live(sources, SCOPE, 1 << 52) == {(plain.id, 1), (agents.id, 1)}
        narrow = Scope(user_id="u", agent_id="a")
        assert repository.live(sources, narrow, now_us()) == {(agents.id, 1)}


def test_demote_takes_derived_cubes_only(engine: MemoryOS) -> None:
    (note,) = stored(engine, "one")
    activation = made(engine, note)
    with pytest.raises(InvalidInput, match="is a memory itself"):
        engine.demote("default", note.id)
    engine.demote("default", activation.cube_id)
    assert all_of(engine) == []
    assert engine.get("default", note.id) == note
    assert engine.stats(SCOPE).memories == 1


def test_export_leaves_derived_cubes_out(engine: MemoryOS, tmp_path: Any) -> None:
    (note,) = stored(engine, "one")
    made(engine, note)
    assert engine.export(SCOPE, tmp_path / "export.jsonl") == 1


def test_damaged_secret_neither_closes_the_store_nor_stops_forgetting(data_folder: Any, embedder: Any) -> None:
    """KV files are an extra: memories open, and are forgotten, without them."""
    settings = Settings(home=data_folder)
    with MemoryOS(settings, embedder) as engine:
        (note,) = stored(engine, "one")
        activation = made(engine, note)
    folder = data_folder / "kv" / activation.key[:2]
    folder.mkdir(parents=True)
    (folder / f"{activation.key}.safetensors").write_bytes(b"the text of a memory")
    (data_folder / "kv" / "secret").write_bytes(b"short")
    with MemoryOS(settings, embedder) as engine:
        receipt = engine.forget("default", note.id)
    assert (receipt.removed["activations"], receipt.pending, list(folder.iterdir())) == (1, (), [])


def test_opening_a_store_with_kv_files_loads_no_model_library(data_folder: Any, embedder: Any) -> None:
    with MemoryOS(Settings(home=data_folder), embedder) as engine:
        made(engine, *stored(engine, "one"))
    (data_folder / "kv").mkdir()
    code = (
        "import sys; from pathlib import Path; from memos.config import Settings; from memos.engine import MemoryOS\n"
        "class E:\n    identity='test:hash-64'; dimension=64\n"
        f"with MemoryOS(Settings(home=Path({str(data_folder)!r})), E()): print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
