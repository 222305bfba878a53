"""Stores with something in every table and both upper tiers, made without a language model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memos.activation.bundle import bundle_of, note_of
from memos.activation.codecs.registry import make_codec
from memos.activation.container import KVHeader
from memos.activation.kv import KVBlock, KVShape
from memos.activation.promotion import indexed
from memos.config import Settings
from memos.cube import LinkType, MemCube, Scope
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.ids import new_id
from memos.parametric.adapter import Adapter, Factors
from memos.parametric.container import Card
from memos.store import namespaces
from memos.store.activations import ActivationRepository
from memos.store.database import Database
from memos.store.jobs import JobRepository
from memos.store.links import LinkRepository, link_row
from memos.store.whole import WholeNamespace, carried_tables

ANN = Scope(user_id="ann")
#: A user of another tenant.
BOB = Scope(tenant="other", user_id="bob")
SHAPE = KVShape(layers=2, heads=2, head_dim=8, dtype="float32")

Rows = dict[str, list[dict[str, Any]]]


def opened(home: Path, embedder: Embedder, *, working: bool = False, **settings: Any) -> MemoryOS:
    """Open an engine whose jobs stay queued unless it is ``working``: what is to be trained again needs a model."""
    engine = MemoryOS(Settings(home=home, **settings), embedder)
    if not working:
        engine._jobs.stop()
    return engine


def promoted(engine: MemoryOS, scope: Scope, notes: list[MemCube], seed: int = 0) -> str:
    """Publish a KV file of random numbers for some notes, as a promotion does; return its key."""
    files, codec = engine.activation._files, make_codec("raw")
    bundle, tokens = bundle_of(map(note_of, notes)), list(range(seed, seed + 6))
    size = (SHAPE.layers, 2, SHAPE.heads, len(tokens), SHAPE.head_dim)
    kv = KVBlock(SHAPE, torch.randn(size, generator=torch.Generator().manual_seed(seed)))
    header = KVHeader(
        key=files.key(scope.tenant, scope.user_id, bundle.digest, "f" * 64, codec.spec, tokens=tokens),
        cube_id=new_id(),
        fingerprint="f" * 64,
        sources=bundle.sources,
        token_ids=tuple(tokens),
        head_tokens=2,
        shape=SHAPE,
        codec=codec.spec,
        created_at=1_700_000_000_000_000,
    )
    with engine.activation.publishing:
        published = files.publish(scope.tenant, header, codec.encode(kv))
        with engine.database.write() as connection:
            namespace = namespaces.open_for_write(connection, scope)
            ActivationRepository(connection, namespace.id).insert(indexed(published), namespace.revision)
    return header.key


def trained(engine: MemoryOS, scope: Scope, notes: list[MemCube], seed: int = 0, name: str | None = None) -> str:
    """Publish a small adapter of random numbers for some notes, as a training does; return its cube's id."""
    generator = torch.Generator().manual_seed(seed)
    factors = Factors(torch.randn(2, 6, generator=generator), torch.randn(5, 2, generator=generator), 0.5)
    adapter = Adapter("b" * 64, {(0, "mlp.up_proj"): factors})
    registry, sources = engine.parametric._registry, [(note.id, note.version) for note in notes]
    report = {"passed": True, "kl": 0.0125}
    record = registry.drafted(adapter, sources, report, {"options": {"epochs": 3}, "losses": [2.5, 1.0]}, name)
    key = registry._files.key_of(scope, record.series, record.digest, record.sources)
    fields = ("digest", "base", "payload", "name", "sources", "gate", "provenance")
    card = Card(key=key, **{field: getattr(record, field) for field in fields})
    with engine.parametric.publishing:
        size = registry._files.publish(scope.tenant, card, adapter).bytes
        standing = registry._register(scope, replace(record, key=key, bytes=size))
    assert standing is not None
    return standing.cube_id


def furnish(engine: MemoryOS, scope: Scope) -> list[MemCube]:
    """Give a user some of everything."""
    item = {"text": "Ann: I adopted a cat", "metadata": {"z": [1.5, None, {"ü\u2028": True}], "a": 7}, "run_id": "s"}
    dated = {"text": "Ann moved to Oslo", "event_time": "2024-05-01T10:00:00Z", "expires_at": "2999-01-01T00:00:00Z"}
    notes = engine.store_many(scope, [item, dated, {"text": "Ann paints"}], idempotency_key=f"key-{scope.user_id}")
    first, second, third = notes
    notes[0] = engine.update(scope.tenant, first.id, text="Ann: I adopted two cats")
    with engine.database.write() as connection:
        namespace = namespaces.open_for_write(connection, scope)
        link = link_row((second.id, 1), (third.id, 1), LinkType.ENTITY, 0.1 + 0.2, "offline", 1_700_000_000_000_001)
        LinkRepository(connection, namespace.id).add([link])
        whole, tables = WholeNamespace(connection, namespace.id), {table.name: table for table in carried_tables()}
        whole.insert(tables["influences"], [{"cube_id": first.id, "version": 2, "source_id": third.id}], None)
        JobRepository(connection, namespace.id).add("elsewhere", {"ids": [first.id], "share": 0.25})
    engine.set_kv_settings(scope, codec="int8", compose="concat", ratio=0.1 + 0.2)
    promoted(engine, scope, notes, seed=1)
    trained(engine, scope, notes[1:], seed=1, name="moves")
    trained(engine, scope, notes[1:], seed=2, name="moves")
    return notes


def rows_of(database: Database, *, besides: tuple[str, ...] = ("restore", "backup")) -> Rows:
    """Return all rows of all namespaces, but for what differs from store to store: seals, and logs of the copying."""
    found: Rows = {}
    with database.read() as connection:
        for space in namespaces.every(connection):
            said = namespaces.described(connection, space.id)
            found.setdefault("namespaces", []).append({name: said[name] for name in said if name != "revision"})
            for table in carried_tables():
                rows = [dict(row) for row in WholeNamespace(connection, space.id).rows(table, 1)]
                kept = [row for row in rows if row.get("action") not in besides]
                found.setdefault(table.name, []).extend(map(_told_apart, kept))
    return found


def _told_apart(row: dict[str, Any]) -> dict[str, Any]:
    own = {"key", "sha256"} if "bytes" in row else set()
    return {name: value for name, value in row.items() if name not in own}


@pytest.fixture(scope="session")
def furnished_home(tmp_path_factory: pytest.TempPathFactory, embedder: Embedder) -> Path:
    """The data folder of a closed store with two users of two tenants, both with some of everything; to be copied."""
    home = tmp_path_factory.mktemp("furnished") / "data"
    with opened(home, embedder, notes="off") as engine:
        for scope in (ANN, BOB):
            furnish(engine, scope)
    return home


@pytest.fixture
def full(furnished_home: Path, data_folder: Path) -> Path:
    """A copy of it."""
    shutil.copytree(furnished_home, data_folder)
    return data_folder


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory, embedder: Embedder) -> Path:
    """The data folder of a store that was opened once; a copy of it needs no migrations any more."""
    home = tmp_path_factory.mktemp("empty") / "data"
    opened(home, embedder, notes="off").close()
    return home


@pytest.fixture
def reopened(embedder: Embedder, empty_home: Path) -> Callable[..., MemoryOS]:
    """Open a store by its data folder, which is an empty one if it is not there."""

    def reopen(home: Path, **options: Any) -> MemoryOS:
        if not home.exists():
            shutil.copytree(empty_home, home)
        return opened(home, embedder, **options)

    return reopen


@pytest.fixture(scope="session")
def all_rows() -> Callable[[MemoryOS], Rows]:
    """Return what two stores that hold the same have in common."""
    return lambda engine: rows_of(engine.database)


@pytest.fixture(scope="session")
def backups(furnished_home: Path, embedder: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with backups of the furnished store, one of each form; to be copied."""
    folder = tmp_path_factory.mktemp("backups")
    shutil.copytree(furnished_home, folder / "data")
    with opened(folder / "data", embedder, notes="off") as engine:
        for name in ("b", "b.tar", "b.tar.zst"):
            engine.backup(folder / name)
    return folder


@pytest.fixture
def packed(backups: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return a backup of the furnished store, by its name: ``b``, ``b.tar``, ``b.tar.zst``."""

    def pack(name: str) -> Path:
        copy = shutil.copytree if (backups / name).is_dir() else shutil.copy
        return Path(copy(backups / name, tmp_path / name))

    return pack
