"""The vector index: follows SQL through everything, and recall is right with it, behind it and without it."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sqlalchemy as sa

from memos.config import Settings
from memos.cube import Scope
from memos.engine import MemoryOS
from memos.errors import StoreUnavailable
from memos.store.vector_index import VectorIndex

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memos.embedding.base import Embedder

SCOPE = Scope(user_id="large")
SMALL = Scope(user_id="small")
THRESHOLD = 30
Open = Callable[..., MemoryOS]
WORDS = "amber birch cedar delta ember fjord grove heath islet knoll larch maple north ocean pearl quartz".split()


@pytest.fixture
def opened(tmp_path: Path, embedder: Embedder) -> Iterator[Open]:
    """Open engines whose namespaces get a collection early; same name, same folder."""
    with ExitStack() as stack:

        def open_one(name: str = "home", **settings: Any) -> MemoryOS:
            settings = {"index_threshold": THRESHOLD, "home": tmp_path / name, **settings}
            return stack.enter_context(MemoryOS(Settings(**settings), embedder))

        yield open_one


@pytest.fixture(params=["embedded", "server"])
def indexed(request: pytest.FixtureRequest, opened: Open) -> MemoryOS:
    """An engine with its index in its own folder, and one with a Chroma server."""
    if request.param == "embedded":
        return opened()
    return opened(chroma_url=request.getfixturevalue("own_chroma")[1])


def phrases(count: int, seed: int = 0) -> list[dict[str, Any]]:
    dice = random.Random(seed)
    return [{"text": f"{' '.join(dice.sample(WORDS, 4))} number {seed}x{n}"} for n in range(count)]


def live_ids(engine: MemoryOS, scope: Scope = SCOPE) -> list[str]:
    return [cube.id for cube in engine.list(scope, limit=1_000)]


def collection_of(engine: MemoryOS, scope: Scope = SCOPE) -> str | None:
    """The collection that SQL says serves a namespace."""
    statement = sa.text("SELECT collection FROM namespaces WHERE user_id = :user")
    with engine.database.read() as connection:
        name: str | None = connection.scalar(statement, {"user": scope.user_id})
    return name


def indexed_ids(engine: MemoryOS, scope: Scope = SCOPE) -> list[str]:
    """What the namespace's collection holds, once the relay has nothing left to do."""
    engine.relay.drain()
    name = collection_of(engine, scope)
    assert name is not None
    return sorted(engine.index._collection(name, create=False).get(include=[])["ids"])


def assert_same_answers(engine: MemoryOS, monkeypatch: pytest.MonkeyPatch, seed: int = 5) -> None:
    """Recall finds with the index what it finds by scanning."""
    asked = [item["text"] for item in phrases(15, seed)]
    found = [engine.recall(SCOPE, text, top_k=5).hits for text in asked]
    with monkeypatch.context() as patched:
        patched.setattr(engine._reader, "_nearest", lambda *_: None)
        scanned = [engine.recall(SCOPE, text, top_k=5).hits for text in asked]
    assert [[hit.id for hit in hits] for hits in found] == [[hit.id for hit in hits] for hits in scanned]


def stop_relay(engine: MemoryOS) -> None:
    """From now on nothing reaches the index by itself."""
    engine.relay.stop()


# ------------------------------------------------------------ who gets a collection


def test_only_large_namespaces_have_collections(indexed: MemoryOS) -> None:
    indexed.store_many(SMALL, phrases(THRESHOLD - 1))
    indexed.store_many(SCOPE, phrases(THRESHOLD))
    assert indexed_ids(indexed) == live_ids(indexed)
    assert collection_of(indexed, SMALL) is None
    assert indexed.index.names() == [collection_of(indexed)]
    indexed.store_many(SMALL, phrases(1))
    assert indexed_ids(indexed, SMALL) == live_ids(indexed, SMALL)
    assert indexed.stats(SMALL).indexed
    assert indexed.stats(SMALL).index_lag == 0


# ------------------------------------------------------------ following


def test_index_follows_every_change(indexed: MemoryOS, embedder: Embedder) -> None:
    dice = random.Random(3)
    indexed.store_many(SCOPE, phrases(50))
    for turn in range(8):
        indexed.store_many(SCOPE, phrases(5, seed=turn + 1))
        for cube_id in dice.sample(live_ids(indexed), 3):
            indexed.forget(SCOPE.tenant, cube_id)
        for cube_id in dice.sample(live_ids(indexed), 3):
            indexed.update(SCOPE.tenant, cube_id, text=f"changed in turn {turn} {cube_id}")
        if turn % 3 == 0:
            assert indexed_ids(indexed) == live_ids(indexed)
    assert indexed_ids(indexed) == live_ids(indexed)
    name = collection_of(indexed) or ""
    held = indexed.index._collection(name, create=False).get(include=["embeddings"])
    texts = [indexed.get(SCOPE.tenant, cube_id).text or "" for cube_id in held["ids"]]
    np.testing.assert_allclose(np.array(held["embeddings"]), embedder.embed(texts), atol=1e-6)


def test_forget_all_empties_and_refills(indexed: MemoryOS) -> None:
    indexed.store_many(SCOPE, phrases(60))
    assert len(indexed_ids(indexed)) == 60
    assert indexed.forget_all(SCOPE).pending == ()
    assert indexed_ids(indexed) == []
    assert indexed.recall(SCOPE, "amber birch").hits == ()
    indexed.store_many(SCOPE, phrases(10, seed=1))
    assert indexed_ids(indexed) == live_ids(indexed)


def test_forget_is_complete_when_it_returns(indexed: MemoryOS) -> None:
    cubes = indexed.store_many(SCOPE, phrases(60))
    indexed.relay.drain()
    name = collection_of(indexed) or ""
    for cube in cubes[:5]:
        assert indexed.forget(SCOPE.tenant, cube.id).pending == ()
        held = indexed.index._collection(name, create=False).get(ids=[cube.id], include=[])
        assert held["ids"] == []


# ------------------------------------------------------------ the same answers


def test_same_answers_as_scanning(indexed: MemoryOS, monkeypatch: pytest.MonkeyPatch) -> None:
    indexed.store_many(SCOPE, phrases(600))
    indexed.relay.drain()
    assert_same_answers(indexed, monkeypatch)


def test_pending_changes_are_searched(indexed: MemoryOS, monkeypatch: pytest.MonkeyPatch) -> None:
    cubes = indexed.store_many(SCOPE, phrases(300))
    indexed.relay.drain()
    stop_relay(indexed)
    (fresh,) = indexed.store_many(SCOPE, [{"text": "zebra crossing seen today"}])
    indexed.update(SCOPE.tenant, cubes[0].id, text="walrus on the beach")
    assert indexed.stats(SCOPE).index_lag == 2
    assert indexed.recall(SCOPE, "zebra crossing").hits[0].id == fresh.id
    assert indexed.recall(SCOPE, "walrus on the beach").hits[0].id == cubes[0].id
    indexed.store_many(SCOPE, phrases(200, seed=9))
    assert_same_answers(indexed, monkeypatch)


# ------------------------------------------------------------ without Chroma


def test_server_down(opened: Open, own_chroma: tuple[Any, str], monkeypatch: pytest.MonkeyPatch) -> None:
    server, url = own_chroma
    engine = opened(chroma_url=url)
    cubes = engine.store_many(SCOPE, phrases(100))
    assert indexed_ids(engine) == live_ids(engine)
    server.kill()
    assert_same_answers(engine, monkeypatch)
    (late,) = engine.store_many(SCOPE, [{"text": "zebra crossing seen today"}])
    assert engine.recall(SCOPE, "zebra crossing").hits[0].id == late.id
    receipt = engine.forget(SCOPE.tenant, cubes[0].id)
    assert receipt.pending == ("vector_index",)
    assert not engine.verify_receipt(SCOPE.tenant, receipt).valid
    assert cubes[0].id not in {hit.id for hit in engine.recall(SCOPE, cubes[0].text or "").hits}
    server.start()
    assert indexed_ids(engine) == live_ids(engine)
    assert engine.verify_receipt(SCOPE.tenant, receipt).valid
    assert engine.forget(SCOPE.tenant, cubes[1].id).pending == ()


def test_forgotten_and_imported_again_meanwhile(opened: Open, own_chroma: tuple[Any, str], tmp_path: Path) -> None:
    """The index learns of the deletion and of the new copy under the same id in one step."""
    server, url = own_chroma
    engine = opened(chroma_url=url)
    cubes = engine.store_many(SCOPE, phrases(60))
    engine.relay.drain()
    engine.export(SCOPE, tmp_path / "all.jsonl")
    server.kill()
    engine.forget(SCOPE.tenant, cubes[0].id)
    assert engine.import_(SCOPE, tmp_path / "all.jsonl").imported == 1
    server.start()
    assert indexed_ids(engine) == live_ids(engine)


def test_server_hangs(opened: Open, own_chroma: tuple[Any, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes the question and never answers is as good as down."""
    monkeypatch.setattr("memos.store.vector_index.TIMEOUT_S", 0.3)
    server, url = own_chroma
    engine = opened(chroma_url=url)
    cubes = engine.store_many(SCOPE, phrases(60))
    engine.relay.drain()
    with server.hung():
        assert engine.recall(SCOPE, cubes[7].text or "").hits[0].id == cubes[7].id
        assert engine.forget(SCOPE.tenant, cubes[0].id).pending == ("vector_index",)
    assert indexed_ids(engine) == live_ids(engine)


def test_relay_catches_up_by_itself(opened: Open, own_chroma: tuple[Any, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """After an outage nobody has to write or to call anything."""
    monkeypatch.setattr("memos.store.relay.RETRY_S", 0.1)
    server, url = own_chroma
    engine = opened(chroma_url=url)
    cubes = engine.store_many(SCOPE, phrases(60))
    engine.relay.drain()
    server.kill()
    engine.forget(SCOPE.tenant, cubes[0].id)
    engine.store_many(SCOPE, phrases(5, seed=1))
    server.start()
    await_true(lambda: engine.stats(SCOPE).index_lag == 0)
    assert indexed_ids(engine) == live_ids(engine)


def test_opening_without_the_server(opened: Open, own_chroma: tuple[Any, str]) -> None:
    server, url = own_chroma
    server.kill()
    engine = opened(chroma_url=url)
    cubes = engine.store_many(SCOPE, phrases(60))
    assert engine.recall(SCOPE, cubes[7].text or "").hits[0].id == cubes[7].id
    assert engine.forget_all(SCOPE).removed["cubes"] == 60


@pytest.mark.parametrize("damage", ["file", "garbage"])
def test_embedded_index_damaged(damage: str, opened: Open, tmp_path: Path) -> None:
    """The index can be rebuilt, so its loss must cost no answer."""
    folder = tmp_path / "home" / "chroma"
    folder.parent.mkdir(parents=True)
    if damage == "file":
        folder.write_text("in the way")
    else:
        folder.mkdir()
        (folder / "chroma.sqlite3").write_bytes(b"no database at all " * 1_000)
    engine = opened()
    cubes = engine.store_many(SCOPE, phrases(60))
    with pytest.raises(StoreUnavailable, match="vector index"):
        engine.relay.drain()
    assert engine.recall(SCOPE, cubes[7].text or "").hits[0].id == cubes[7].id
    assert engine.forget_all(SCOPE).removed["cubes"] == 60
    assert engine.relay._thread is not None
    assert engine.relay._thread.is_alive()


@pytest.fixture
def chroma_files(tmp_path: Path, embedder: Embedder) -> Path:
    """The files of a collection of 1,200 in the closed store `home`: enough for Chroma to have written them."""
    with MemoryOS(Settings(home=tmp_path / "home", index_threshold=THRESHOLD), embedder) as engine:
        engine.store_many(SCOPE, phrases(1_200))
        assert len(indexed_ids(engine)) == 1_200
    (file,) = (tmp_path / "home" / "chroma").glob("*/header.bin")
    return file.parent


def assert_heals(engine: MemoryOS, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collection is made anew in the background, and answers were right all along."""
    assert_same_answers(engine, monkeypatch)
    await_true(lambda: engine.stats(SCOPE).index_lag == 0)
    assert indexed_ids(engine) == live_ids(engine) + [cube.id for cube in rest(engine)]
    assert_same_answers(engine, monkeypatch, seed=6)


def test_who_drains_waits_for_what_another_makes_anew(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memos.store.relay.QUIET_S", 0.01)
    engine = opened()
    engine.store_many(SCOPE, phrases(60))
    engine.relay.drain()
    begun, built, rebuild = threading.Event(), [], engine.relay.rebuild

    def slow(namespace_id: int) -> None:
        begun.set()
        threading.Event().wait(0.2)
        rebuild(namespace_id)
        built.append(namespace_id)

    monkeypatch.setattr(engine.relay, "rebuild", slow)
    engine.relay.doubt(1)
    assert begun.wait(30)  # the relay's own thread is at it
    engine.relay.drain()
    assert built == [1]
    assert indexed_ids(engine) == live_ids(engine)
    assert built == [1]


@pytest.mark.parametrize("noticed_by", ["write", "recall", "forget"])
def test_torn_files_that_chroma_notices(
    noticed_by: str, opened: Open, chroma_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memos.store.relay.QUIET_S", 0.05)
    (chroma_files / "header.bin").write_bytes(b"")
    engine = opened()
    if noticed_by == "write":
        engine.store_many(SCOPE, phrases(5, seed=1))
    elif noticed_by == "forget":
        assert engine.forget(SCOPE.tenant, live_ids(engine)[0]).pending == ()
    assert_heals(engine, monkeypatch)


def test_torn_files_that_chroma_takes_for_an_empty_index(
    opened: Open, chroma_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memos.store.relay.QUIET_S", 0.05)
    (chroma_files / "index_metadata.pickle").unlink()
    assert_heals(opened(), monkeypatch)


def test_killed_while_writing_the_index(
    opened: Open, chroma_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torn like this, Chroma would crash the process: files that were being written are not opened again."""
    (chroma_files / "data_level0.bin").write_bytes(b"torn" * 250)
    with closing(sqlite3.connect(tmp_path / "home" / "memos.db")) as connection, connection:
        connection.execute("UPDATE namespaces SET indexing = 1")
    assert_heals(opened(), monkeypatch)


def rest(engine: MemoryOS) -> list[Any]:
    """Memories beyond the first page."""
    return engine.list(SCOPE, limit=1_000, after=live_ids(engine)[-1])


# ------------------------------------------------------------ behind our back


def delete_collection(engine: MemoryOS, url: str) -> str:
    """Delete the collection as somebody else at the same server would."""
    name = collection_of(engine)
    assert name is not None
    somebody = VectorIndex(None, url)
    somebody.drop(name)
    somebody.close()
    return name


@pytest.mark.parametrize("cure", ["write", "reindex"])
def test_collection_deleted_by_others(
    cure: str, opened: Open, own_chroma: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memos.store.relay.RETRY_S", 0.1)
    engine = opened(chroma_url=own_chroma[1])
    cubes = engine.store_many(SCOPE, phrases(80))
    assert len(indexed_ids(engine)) == 80
    name = delete_collection(engine, own_chroma[1])
    assert_same_answers(engine, monkeypatch)
    if cure == "write":
        engine.forget(SCOPE.tenant, cubes[0].id)
    else:
        assert engine.reindex() == 1
    await_true(lambda: engine.stats(SCOPE).index_lag == 0 and name in engine.index.names())
    assert indexed_ids(engine) == live_ids(engine)
    assert_same_answers(engine, monkeypatch)


def test_reindex_rebuilds(indexed: MemoryOS, monkeypatch: pytest.MonkeyPatch) -> None:
    indexed.store_many(SCOPE, phrases(100))
    indexed.store_many(SMALL, phrases(3))
    assert len(indexed_ids(indexed)) == 100
    collection = indexed.index._collection(collection_of(indexed) or "", create=False)
    collection.delete(ids=live_ids(indexed)[:50])
    collection.upsert(ids=["ghost"], embeddings=np.ones((1, 64), np.float32))
    steps: list[tuple[int, int]] = []
    assert indexed.reindex(progress=lambda done, total: steps.append((done, total))) == 2
    assert steps == [(1, 2), (2, 2)]
    assert indexed_ids(indexed) == live_ids(indexed)
    assert_same_answers(indexed, monkeypatch)


def test_two_stores_at_one_server(opened: Open, own_chroma: tuple[Any, str]) -> None:
    """Their namespaces have the same numbers; their collections must not."""
    one, two = (opened(name, chroma_url=own_chroma[1]) for name in ("one", "two"))
    one.store_many(SCOPE, phrases(40))
    assert indexed_ids(one) == live_ids(one)
    two.store_many(SCOPE, phrases(50, seed=1))
    assert indexed_ids(two) == live_ids(two)
    assert indexed_ids(one) == live_ids(one)


# ------------------------------------------------------------ several relays


@pytest.fixture
def pair(opened: Open, postgres_database: str, own_chroma: tuple[Any, str]) -> list[MemoryOS]:
    """Two servers of one store."""
    shared = {"database_url": postgres_database, "chroma_url": own_chroma[1]}
    return [opened(name, **shared) for name in ("one", "two")]


def test_two_relays_leave_no_ghost(pair: list[MemoryOS], monkeypatch: pytest.MonkeyPatch) -> None:
    pair[0].store_many(SCOPE, phrases(60))

    def churn(number: int) -> None:
        engine, dice = pair[number % 2], random.Random(number)
        for turn in range(6):
            cubes = engine.store_many(SCOPE, phrases(6, seed=100 * number + turn))
            for cube in dice.sample(cubes, 3):
                assert engine.forget(SCOPE.tenant, cube.id).pending == ()
            engine.update(SCOPE.tenant, cubes[0].id, text="new") if cubes[0].id in live_ids(engine) else None

    workers = [threading.Thread(target=churn, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    await_true(lambda: pair[0].stats(SCOPE).index_lag == 0)
    assert indexed_ids(pair[0]) == live_ids(pair[0])
    for engine in pair:
        assert_same_answers(engine, monkeypatch)


def test_forget_while_the_other_relay_works(pair: list[MemoryOS]) -> None:
    """A receipt that names nothing pending may not leave the vector behind."""
    one, two = pair
    cubes = one.store_many(SCOPE, phrases(60))
    one.relay.drain()
    with two.database.lease("memos-index-1") as granted:
        assert granted
        receipts: list[Any] = []
        forgetting = threading.Thread(target=lambda: receipts.append(one.forget(SCOPE.tenant, cubes[0].id)))
        forgetting.start()
        forgetting.join(0.5)
    forgetting.join()
    assert receipts[0].pending == ()
    name = collection_of(one) or ""
    assert one.index._collection(name, create=False).get(ids=[cubes[0].id], include=[])["ids"] == []


def test_reindex_on_one_server_while_the_other_writes(pair: list[MemoryOS]) -> None:
    pair[0].store_many(SCOPE, phrases(60))
    done = threading.Event()

    def write() -> None:
        for turn in range(15):
            (cube, *_) = pair[1].store_many(SCOPE, phrases(4, seed=turn + 1))
            pair[1].forget(SCOPE.tenant, cube.id)
        done.set()

    writing = threading.Thread(target=write)
    writing.start()
    while not done.is_set():
        pair[0].reindex()
    writing.join()
    await_true(lambda: pair[0].stats(SCOPE).index_lag == 0)
    assert indexed_ids(pair[0]) == live_ids(pair[0])


def test_user_without_a_home_is_told() -> None:
    """Chroma asks for a home directory while it is imported; a container may run as somebody who has none."""
    said = """
import pathlib
from memos.errors import StoreUnavailable
from memos.store.vector_index import VectorIndex

def homeless():
    raise RuntimeError("Could not determine home directory.")

pathlib.Path.home = homeless
for _ in range(2):
    try:
        VectorIndex(None, "http://127.0.0.1:1").names()
    except StoreUnavailable as error:
        print(error.message)
"""
    told = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True).stdout
    assert told.count("the vector index needs a home directory; set HOME") == 2


def await_true(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    """Wait until a condition holds."""
    waiting = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        waiting.wait(0.05)
    assert condition()
