"""Another embedder: refused until every memory has a new vector, and changed over without a pause."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import sqlalchemy as sa

from memos.config import Settings
from memos.cube import Scope
from memos.engine import MemoryOS
from memos.errors import Conflict, EmbedderMismatch, EmbedderUnavailable
from memos.store.mixture import FLOAT32

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memos.embedding.base import Embedder

SCOPE = Scope(user_id="u")
OTHER = Scope(user_id="v")


class Wrapped:
    """An embedder that does something else before each call."""

    def __init__(self, inner: Embedder, before: Callable[[], None]) -> None:
        self.identity = inner.identity
        self.dimension = inner.dimension
        self.count_tokens = inner.count_tokens
        self._inner = inner
        self._before = before

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self._before()
        return self._inner.embed(texts)


def fails_after(calls: int) -> Callable[[], None]:
    """Make a function that raises from the given call on, as an endpoint that goes away."""
    left = iter(range(calls))

    def call() -> None:
        if next(left, None) is None:
            raise EmbedderUnavailable("the endpoint went away")

    return call


def facts(count: int, word: str = "fact") -> list[dict[str, str]]:
    return [{"text": f"{word} {number} is about thing{number % 97}"} for number in range(count)]


def vectors(engine: MemoryOS) -> dict[str, tuple[str, NDArray[np.float32]]]:
    """Return the text and vector of every version in the store, whoever's it is."""
    statement = sa.text(
        "SELECT e.cube_id || '/' || e.version || '/' || e.embedder_id, v.text, e.vector FROM vectors e "
        "JOIN versions v ON v.cube_id = e.cube_id AND v.version = e.version"
    )
    with engine.database.read() as connection:
        rows = connection.execute(statement).all()
    return {key: (text, np.frombuffer(vector, FLOAT32)) for key, text, vector in rows}


def identities(engine: MemoryOS) -> list[tuple[str, bool]]:
    """Return the embedders the store knows, and whether each serves."""
    with engine.database.read() as connection:
        rows = connection.execute(sa.text("SELECT identity, active FROM embedders ORDER BY id"))
        return [(identity, bool(active)) for identity, active in rows]


def assert_all_made_by(engine: MemoryOS, embedder: Embedder, versions: int) -> None:
    """Check every vector in the store against the embedder that should have made it."""
    found = vectors(engine)
    assert len(found) == versions
    expected = embedder.embed([text for text, _ in found.values()])
    np.testing.assert_allclose([vector for _, vector in found.values()], expected, atol=1e-6)
    assert identities(engine) == [(embedder.identity, True)]


@contextmanager
def busy(*calls: Callable[[], None]) -> Iterator[None]:
    """Repeat each call in a thread of its own while the block runs; raise what any of them raised."""
    done = threading.Event()

    def repeat(call: Callable[[], None]) -> None:
        call()
        while not done.is_set():
            call()

    with ThreadPoolExecutor(len(calls)) as pool:
        running = [pool.submit(repeat, call) for call in calls]
        try:
            yield
        finally:
            done.set()
        for one in running:
            one.result()


# ------------------------------------------------------------ refused


@pytest.mark.parametrize("call", ["store", "update", "recall"])
def test_another_embedder_is_refused(
    call: str, data_folder: Path, embedder: Embedder, other_embedder: Embedder
) -> None:
    with MemoryOS(Settings(home=data_folder), embedder) as engine:
        (cube,) = engine.store_many(SCOPE, [{"text": "made by the first"}])
    with MemoryOS(Settings(home=data_folder), other_embedder) as engine:
        calls: dict[str, Callable[[], object]] = {
            "store": lambda: engine.store_many(SCOPE, [{"text": "made by the second"}]),
            "update": lambda: engine.update(SCOPE.tenant, cube.id, text="made by the second"),
            "recall": lambda: engine.recall(SCOPE, "made"),
        }
        with pytest.raises(EmbedderMismatch, match="memos reindex --embedder") as caught:
            calls[call]()
        assert caught.value.extra == {"stored": "test:hash-64", "configured": "test:hash-32"}
        assert engine.list(SCOPE) == [cube]
        assert identities(engine) == [("test:hash-64", True)]


def test_reading_and_forgetting_need_no_embedder(
    data_folder: Path, embedder: Embedder, other_embedder: Embedder
) -> None:
    with MemoryOS(Settings(home=data_folder), embedder) as engine:
        (cube,) = engine.store_many(SCOPE, [{"text": "made by the first"}])
    with MemoryOS(Settings(home=data_folder), other_embedder) as engine:
        assert engine.get(SCOPE.tenant, cube.id) == cube
        assert engine.forget(SCOPE.tenant, cube.id).removed["vectors"] == 1


# ------------------------------------------------------------ changed


def test_change(engine: MemoryOS, other_embedder: Embedder, data_folder: Path) -> None:
    cubes = engine.store_many(SCOPE, facts(300))
    engine.store_many(OTHER, facts(10))
    engine.update(SCOPE.tenant, cubes[0].id, text="fact 0 changed")
    steps: list[tuple[int, int]] = []
    made = engine.reindex(other_embedder, progress=lambda done, total: steps.append((done, total)))
    assert made == 311
    assert steps[-1][0] == 311
    assert_all_made_by(engine, other_embedder, 311)
    assert engine.recall(SCOPE, cubes[7].text or "").hits[0].id == cubes[7].id
    engine.store_many(SCOPE, facts(1, "late"))
    assert_all_made_by(engine, other_embedder, 312)
    engine.close()
    with MemoryOS(Settings(home=data_folder), other_embedder) as again:
        assert again.recall(SCOPE, cubes[7].text or "").hits[0].id == cubes[7].id


def test_change_to_the_same_changes_nothing(engine: MemoryOS, embedder: Embedder) -> None:
    engine.store_many(SCOPE, facts(20))
    before = vectors(engine).keys()
    assert engine.reindex(embedder) == 0
    assert vectors(engine).keys() == before
    assert_all_made_by(engine, embedder, 20)


def test_change_of_an_empty_store(engine: MemoryOS, other_embedder: Embedder) -> None:
    assert engine.reindex(other_embedder) == 0
    engine.store_many(SCOPE, facts(1))
    assert_all_made_by(engine, other_embedder, 1)


def test_change_while_others_work(engine: MemoryOS, embedder: Embedder, other_embedder: Embedder) -> None:
    """There and back and there again, while threads recall, store, update, forget and open new namespaces."""
    anchors = engine.store_many(SCOPE, facts(200))
    counter = iter(range(100_000))

    def recall() -> None:
        cube = anchors[next(counter) % 200]
        assert engine.recall(SCOPE, cube.text or "", top_k=1).hits[0].id == cube.id

    def store() -> None:
        number = next(counter)
        (cube,) = engine.store_many(SCOPE, [{"text": f"stored meanwhile {number}"}])
        assert engine.recall(SCOPE, f"stored meanwhile {number}", top_k=1).hits[0].id == cube.id
        engine.update(SCOPE.tenant, cube.id, text=f"updated meanwhile {number}")
        if number % 2:
            engine.forget(SCOPE.tenant, cube.id)

    def found() -> None:
        engine.store_many(Scope(user_id=f"new {next(counter)}"), [{"text": "a first memory"}])

    with busy(recall, store, found):
        for chosen in (other_embedder, embedder, other_embedder):
            engine.reindex(chosen)
    with engine.database.read() as connection:
        versions = connection.scalar(sa.text("SELECT count(*) FROM versions"))
    assert_all_made_by(engine, other_embedder, int(versions or 0))


def test_one_change_at_a_time(engine: MemoryOS, other_embedder: Embedder) -> None:
    engine.store_many(SCOPE, facts(10))

    def try_another() -> None:
        with pytest.raises(Conflict, match="being changed already"):
            engine.reindex(other_embedder)

    assert engine.reindex(Wrapped(other_embedder, try_another)) == 10
    assert_all_made_by(engine, other_embedder, 10)


# ------------------------------------------------------------ interrupted


def test_interrupted_change_leaves_the_old_serving(
    engine: MemoryOS, embedder: Embedder, other_embedder: Embedder
) -> None:
    cubes = engine.store_many(SCOPE, facts(700))
    with pytest.raises(EmbedderUnavailable, match="went away"):
        engine.reindex(Wrapped(other_embedder, fails_after(1)))
    assert engine.recall(SCOPE, cubes[7].text or "").hits[0].id == cubes[7].id
    engine.store_many(SCOPE, facts(20, "late"))
    engine.forget(SCOPE.tenant, cubes[0].id)
    assert identities(engine) == [(embedder.identity, True), (other_embedder.identity, False)]
    made = engine.reindex(other_embedder)
    assert 0 < made < 700
    assert_all_made_by(engine, other_embedder, 719)


def test_interrupted_change_after_reopening(data_folder: Path, embedder: Embedder, other_embedder: Embedder) -> None:
    with MemoryOS(Settings(home=data_folder), embedder) as engine:
        engine.store_many(SCOPE, facts(700))
        with pytest.raises(EmbedderUnavailable):
            engine.reindex(Wrapped(other_embedder, fails_after(2)))
    with MemoryOS(Settings(home=data_folder), embedder) as engine:
        assert len(engine.recall(SCOPE, "fact 5").hits) == 10
        assert engine.reindex() == 1
        engine.reindex(other_embedder)
        assert_all_made_by(engine, other_embedder, 700)


def test_failure_in_the_last_step(engine: MemoryOS, embedder: Embedder, other_embedder: Embedder) -> None:
    """What is written during the change is embedded inside the switching transaction, which must then not happen."""
    cubes = engine.store_many(SCOPE, facts(5))
    stored = threading.Event()

    def store_one_meanwhile() -> None:
        if stored.is_set():
            raise EmbedderUnavailable("the endpoint went away")
        stored.set()
        engine.store_many(OTHER, facts(1, "late"))

    with pytest.raises(EmbedderUnavailable):
        engine.reindex(Wrapped(other_embedder, store_one_meanwhile))
    assert identities(engine)[0] == (embedder.identity, True)
    assert engine.recall(SCOPE, cubes[3].text or "").hits[0].id == cubes[3].id
    engine.reindex(other_embedder)
    assert_all_made_by(engine, other_embedder, 6)


def test_changing_ones_mind(engine: MemoryOS, embedder: Embedder, other_embedder: Embedder) -> None:
    """After an interrupted change to one embedder, the old one again cleans up what was made."""
    engine.store_many(SCOPE, facts(300))
    with pytest.raises(EmbedderUnavailable):
        engine.reindex(Wrapped(other_embedder, fails_after(1)))
    assert len(vectors(engine)) > 300
    assert engine.reindex(embedder) == 0
    assert_all_made_by(engine, embedder, 300)


# ------------------------------------------------------------ with a vector index


def test_old_collection_is_gone(data_folder: Path, embedder: Embedder, other_embedder: Embedder) -> None:
    """A vector says a lot about its text: none of the old ones may stay behind in Chroma."""
    settings = Settings(home=data_folder, index_threshold=50)
    with MemoryOS(settings, embedder) as engine:
        cubes = engine.store_many(SCOPE, facts(120))
        engine.relay.drain()
        (before,) = engine.index.names()
        engine.reindex(other_embedder)
        engine.relay.drain()
        (after,) = engine.index.names()
        assert before != after
        assert engine.index.size(after) == 120
        assert engine.stats(SCOPE).indexed
        assert engine.recall(SCOPE, cubes[7].text or "").hits[0].id == cubes[7].id
