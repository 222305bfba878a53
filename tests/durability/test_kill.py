"""``kill -9`` at random moments: what was acknowledged is there, and nothing is half there."""

from __future__ import annotations

import os
import random
import runpy
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from memos.config import Settings
from memos.cube import Scope
from memos.engine import MemoryOS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memos.embedding.base import Embedder

SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
SCOPE = Scope(user_id="writer")

#: Each counts rows that may not exist.
BROKEN_RULES = {
    "version without cube": "versions WHERE cube_id NOT IN (SELECT id FROM cubes)",
    "vector without version": "vectors WHERE (cube_id, version) NOT IN (SELECT cube_id, version FROM versions)",
    "cube without its version": "cubes WHERE (id, version) NOT IN (SELECT cube_id, version FROM versions)",
    "version without vector": "versions WHERE (cube_id, version) NOT IN (SELECT cube_id, version FROM vectors)",
    "cube ahead of its namespace": "cubes c JOIN namespaces n ON n.id = c.namespace_id WHERE c.revision > n.revision",
    "miscounted namespace": "namespaces n WHERE memories <> (SELECT count(*) FROM cubes WHERE namespace_id = n.id)",
    "index ahead of SQL": "namespaces WHERE indexed_revision > revision",
}


@dataclass(frozen=True, slots=True)
class Stored:
    """One memory as the database file has it."""

    text: str
    version: int
    tag: str
    vector: bytes


@pytest.fixture
def text_of(writer_script: Path) -> Callable[[str, int], str]:
    """The text a writer gives an item of a batch."""
    names: dict[str, Any] = runpy.run_path(str(writer_script))
    made: Callable[[str, int], str] = names["text_of"]
    return made


@pytest.mark.timeout(1_200 if SOAK else 120)
def test_nothing_lost_nothing_half_there(
    nursery: Any,
    ledger: Any,
    dice: random.Random,
    text_of: Callable[[str, int], str],
    data_folder: Path,
    embedder: Embedder,
) -> None:
    MemoryOS(Settings(home=data_folder), embedder).close()  # being killed while this is made is another test
    for number in range(500 if SOAK else 15):
        ledger.read(nursery.round(data_folder, number, dice.uniform(0, 0.3)), text_of)
    stored = read_store(data_folder / "memos.db")
    check_promises(ledger, stored)
    check_batches(ledger, stored, text_of)
    check_vectors(stored, embedder)
    with MemoryOS(Settings(home=data_folder), embedder) as engine:
        check_recall(engine, stored, dice)


@pytest.mark.timeout(1_200 if SOAK else 120)
def test_index_follows_exactly(
    nursery: Any,
    ledger: Any,
    dice: random.Random,
    text_of: Callable[[str, int], str],
    data_folder: Path,
    embedder: Embedder,
) -> None:
    """With a low threshold the relay is killed too, in the middle of writing to Chroma."""
    rounds = iter(range(10_000))
    for number in islice(rounds, 100 if SOAK else 5):
        delay = dice.uniform(0.1, 0.8)
        ledger.read(nursery.round(data_folder, number, delay, index_threshold=50), text_of)
    while len(ledger.tags) < 100:  # a slow machine: there is no collection yet
        ledger.read(nursery.round(data_folder, next(rounds), 2.0, index_threshold=50), text_of)
    settings = Settings(home=data_folder, index_threshold=50)
    with MemoryOS(settings, embedder) as engine:
        engine.relay.drain()
        stored = read_store(data_folder / "memos.db")
        check_index(engine, stored)
        check_recall(engine, stored, dice)
    check_promises(ledger, stored)


def test_killed_while_creating_the_store(nursery: Any, dice: random.Random, tmp_path: Path, embedder: Embedder) -> None:
    for number in range(100 if SOAK else 5):
        home = tmp_path / f"store-{number}"
        for _ in range(2):
            nursery.round(home, number, dice.uniform(0, 0.15))
        with MemoryOS(Settings(home=home), embedder) as engine:
            (cube,) = engine.store_many(SCOPE, [{"text": "written after the crash"}])
            assert engine.get(SCOPE.tenant, cube.id).text == "written after the crash"


# ------------------------------------------------------------ what the file says


def read_store(path: Path) -> dict[str, Stored]:
    """Check the database file itself, without the engine, and return every memory in it by id."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        for rule, broken in BROKEN_RULES.items():
            assert connection.execute(f"SELECT count(*) FROM {broken}").fetchone() == (0,), rule
        rows = connection.execute(
            "SELECT c.id, v.text, c.version, json_extract(v.metadata, '$.batch'), e.vector FROM cubes c "
            "JOIN versions v ON v.cube_id = c.id AND v.version = c.version "
            "JOIN vectors e ON e.cube_id = c.id AND e.version = c.version"
        ).fetchall()
    return {row[0]: Stored(*row[1:]) for row in rows}


# ------------------------------------------------------------ what must hold


def check_promises(ledger: Any, stored: dict[str, Stored]) -> None:
    """Every acknowledged write is there in its last form; an open one happened whole or not at all."""
    assert len(ledger.present) > 100
    found = {key: (memory.text, memory.version) for key, memory in stored.items()}
    assert {key: found.get(key) for key in ledger.present} == ledger.present
    assert not ledger.gone & found.keys()
    for key, allowed in ledger.doubtful.items():
        assert found.get(key) in allowed


def check_batches(ledger: Any, stored: dict[str, Stored], text_of: Callable[[str, int], str]) -> None:
    """An unacknowledged batch is there with all its items or with none; nothing else is there."""
    unknown = {key: memory for key, memory in stored.items() if key not in ledger.tags}
    sizes = Counter(memory.tag for memory in unknown.values())
    assert sizes.items() <= ledger.open_batches.items()
    expected = {text_of(tag, index) for tag, size in sizes.items() for index in range(size)}
    assert {memory.text for memory in unknown.values()} == expected


def check_vectors(stored: dict[str, Stored], embedder: Embedder) -> None:
    """Every vector is that of the present text."""
    vectors = np.frombuffer(b"".join(memory.vector for memory in stored.values()), "<f4")
    expected = embedder.embed([memory.text for memory in stored.values()])
    np.testing.assert_allclose(vectors.reshape(expected.shape), expected, atol=1e-6)


def check_recall(engine: MemoryOS, stored: dict[str, Stored], dice: random.Random) -> None:
    """A question with the words of a memory finds it first."""
    for key in dice.sample(sorted(stored), 20):
        hit = engine.recall(SCOPE, stored[key].text, top_k=1).hits[0]
        assert (hit.id, hit.text) == (key, stored[key].text)


def check_index(engine: MemoryOS, stored: dict[str, Stored]) -> None:
    """The collection holds the vectors of the present memories and no others."""
    (name,) = engine.index.names()
    found = engine.index._collection(name, create=False).get(include=["embeddings"])
    assert sorted(found["ids"]) == sorted(stored)
    expected = np.frombuffer(b"".join(stored[key].vector for key in found["ids"]), "<f4")
    assert found["embeddings"] is not None
    np.testing.assert_allclose(np.array(found["embeddings"]).ravel(), expected, atol=1e-6)
