"""Versions, idempotency and concurrent writers."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import pytest

from memos.config import Settings
from memos.cube import Scope, State
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import IllegalTransition
from memos_sdk import Memory
from memos_sdk.errors import (
    IdempotencyConflict,
    InvalidInput,
    MemosError,
    NotFound,
    VersionConflict,
)

T = TypeVar("T")


def together(calls: Sequence[Callable[[], T]]) -> list[T | MemosError]:
    """Run all calls at the same moment, each in its thread; return values and errors."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T | MemosError:
        barrier.wait()
        try:
            return call()
        except MemosError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


# ---------------------------------------------------------------- storing


def test_stored_cube(memory: Memory) -> None:
    before = datetime.now(UTC)
    cube = memory.store(
        "Ann: I adopted a cat",
        user_id="u",
        agent_id="a",
        run_id="r",
        metadata={"x": [1, {"y": None}]},
        event_time="2023-05-08",
        expires_at="2999-01-01",
        infer=False,
    )
    assert cube == memory.get(cube.id) == memory.list(user_id="u")[0]
    assert (cube.kind, cube.state, cube.version) == ("plaintext", "activated", 1)
    assert cube.digest == hashlib.sha256(b"Ann: I adopted a cat").hexdigest()
    assert cube.scope.model_dump() == {
        "tenant": "default",
        "user_id": "u",
        "agent_id": "a",
        "run_id": "r",
    }
    assert before <= cube.time.created_at <= datetime.now(UTC)
    assert cube.time.event_time == cube.time.valid_from == datetime(2023, 5, 8, tzinfo=UTC)
    assert (cube.provenance.author, cube.provenance.infer) == ("Ann", False)


def test_infer_waits_for_its_notes(memory: Memory) -> None:
    assert memory.store("x").state == "generated"
    assert memory.store("y", infer=False).state == "activated"


def test_order_of_a_batch(memory: Memory) -> None:
    cubes = memory.store_many([{"text": f"note {n}"} for n in range(700)])
    assert [cube.text for cube in cubes] == [f"note {n}" for n in range(700)]
    listed = memory.list(limit=1_000)
    assert [cube.id for cube in listed] == [cube.id for cube in cubes] == sorted(cube.id for cube in cubes)


def test_list_in_pages(memory: Memory) -> None:
    memory.store_many([{"text": f"note {n}"} for n in range(25)])
    seen: list[str | None] = []
    after = None
    while page := memory.list(limit=10, after=after):
        seen += [cube.text for cube in page]
        after = page[-1].id
    assert seen == [f"note {n}" for n in range(25)]


def test_scope_of_items(memory: Memory) -> None:
    items = [{"text": "a"}, {"text": "b", "run_id": "r2", "agent_id": "a2"}]
    cubes = memory.store_many(items, agent_id="a1", run_id="r1")
    assert [(cube.scope.agent_id, cube.scope.run_id) for cube in cubes] == [
        ("a1", "r1"),
        ("a2", "r2"),
    ]


def test_stats(memory: Memory) -> None:
    cube = memory.store("four", user_id="u")
    memory.update(cube.id, text="sixsix")
    memory.store("x", user_id="other")
    stats = memory.stats(user_id="u")
    assert (stats.memories, stats.versions, stats.vectors, stats.links) == (1, 2, 2, 0)
    assert (stats.text_characters, stats.embedder, stats.dimension) == (10, "test:hash-64", 64)


# ---------------------------------------------------------------- versions


def test_update_writes_a_version(memory: Memory) -> None:
    first = memory.store("one", metadata={"x": 1}, run_id="r")
    second = memory.update(first.id, text="two")
    third = memory.update(first.id, metadata={"y": 2}, expected_version=2)
    assert (second.version, second.text, second.metadata) == (2, "two", {"x": 1})
    assert (third.version, third.text, third.metadata) == (3, "two", {"y": 2})
    assert third.scope == first.scope
    assert third.time.created_at == first.time.created_at
    assert third.time.updated_at > second.time.updated_at > first.time.updated_at
    history = memory.history(first.id)
    assert [(one.version, one.text, one.metadata, one.reason) for one in history] == [
        (1, "one", {"x": 1}, None),
        (2, "two", {"x": 1}, "update"),
        (3, "two", {"y": 2}, "update"),
    ]
    assert [one.digest for one in history] == [first.digest, second.digest, third.digest]
    assert history[0].valid_from < history[1].valid_from < history[2].valid_from


@pytest.mark.parametrize("expected", [1, 3])
def test_stale_version_conflicts(memory: Memory, expected: int) -> None:
    cube = memory.store("one")
    memory.update(cube.id, text="two")
    with pytest.raises(VersionConflict, match="is at version 2") as caught:
        memory.update(cube.id, text="three", expected_version=expected)
    assert caught.value.current_version == 2
    assert memory.get(cube.id).text == "two"
    assert len(memory.history(cube.id)) == 2


def test_metadata_can_be_emptied(memory: Memory) -> None:
    cube = memory.store("one", metadata={"x": 1})
    assert memory.update(cube.id, metadata={}).metadata == {}


def test_moves_are_checked(engine: MemoryOS) -> None:
    cube = engine.store_many(Scope(), [{"text": "x", "infer": False}])[0]
    assert engine.move("default", cube.id, State.ARCHIVED).state is State.ARCHIVED
    with pytest.raises(IllegalTransition):
        engine.move("default", cube.id, State.MERGED)
    assert engine.get("default", cube.id).state is State.ARCHIVED
    assert engine.get("default", cube.id).version == 1


# ---------------------------------------------------------------- idempotency


def test_replay_returns_the_same_cube(memory: Memory) -> None:
    first = memory.store("x", metadata={"a": 1}, idempotency_key="k")
    assert memory.store("x", metadata={"a": 1}, idempotency_key="k") == first
    assert memory.stats().memories == 1


def test_replay_of_a_batch(memory: Memory) -> None:
    items = [{"text": "a"}, {"text": "b"}]
    first = memory.store_many(items, idempotency_key="k")
    assert memory.store_many(items, idempotency_key="k") == first
    assert memory.stats().memories == 2


@pytest.mark.parametrize(
    "change",
    [
        {"text": "y"},
        {"metadata": {"a": 2}},
        {"run_id": "r"},
        {"infer": False},
        {"event_time": "2023-05-08"},
    ],
)
def test_key_with_another_request(memory: Memory, change: dict[str, Any]) -> None:
    request: dict[str, Any] = {"text": "x", "metadata": {"a": 1}}
    memory.store(**request, idempotency_key="k")
    with pytest.raises(IdempotencyConflict, match="'k'"):
        memory.store(**{**request, **change}, idempotency_key="k")
    assert memory.stats().memories == 1


def test_keys_belong_to_a_user(memory: Memory) -> None:
    one = memory.store("x", user_id="ann", idempotency_key="k")
    other = memory.store("y", user_id="bob", idempotency_key="k")
    assert one.id != other.id


def test_key_of_a_failed_request_is_free(memory: Memory) -> None:
    with pytest.raises(InvalidInput):
        memory.store("", idempotency_key="k")
    assert memory.store("x", idempotency_key="k").text == "x"


def test_replay_of_a_forgotten_memory(memory: Memory) -> None:
    """It is neither stored again nor returned."""
    cube = memory.store("x", idempotency_key="k")
    memory.forget(cube.id)
    with pytest.raises(NotFound, match="forgotten"):
        memory.store("x", idempotency_key="k")
    assert memory.stats().memories == 0


def test_keys_end_with_forget_all(memory: Memory) -> None:
    memory.store("x", idempotency_key="k")
    memory.forget_all()
    assert memory.store("y", idempotency_key="k").text == "y"


def test_replay_survives_reopening(data_folder: Any, embedder: Embedder) -> None:
    with Memory(path=data_folder, embedder=embedder) as memory:
        first = memory.store("x", idempotency_key="k")
    with Memory(path=data_folder, embedder=embedder) as memory:
        assert memory.store("x", idempotency_key="k") == first


def test_concurrent_requests_with_one_key(memory: Memory) -> None:
    made = together([lambda: memory.store("x", idempotency_key="k")] * 8)
    assert len({cube.id for cube in made if not isinstance(cube, MemosError)}) == 1
    assert not any(isinstance(cube, MemosError) for cube in made)
    assert memory.stats().memories == 1


# ---------------------------------------------------------------- concurrent writers


def test_one_writer_wins_each_version(memory: Memory) -> None:
    """Two writers who read the same version: one succeeds, the other is told."""
    cube = memory.store("start")
    for version in range(1, 11):
        results = together(
            [
                partial(memory.update, cube.id, text=text, expected_version=version)
                for text in ("from one", "from other")
            ]
        )
        conflicts = [one for one in results if isinstance(one, VersionConflict)]
        assert len(conflicts) == 1
        assert conflicts[0].current_version == version + 1
        winner = next(one for one in results if not isinstance(one, MemosError))
        assert memory.get(cube.id) == winner
    assert [one.version for one in memory.history(cube.id)] == list(range(1, 12))


def test_updates_without_a_version_are_not_lost(memory: Memory) -> None:
    """Each writer either made a version of its own or was refused."""
    cube = memory.store("start")

    def write(name: str) -> int:
        made = 0
        for number in range(10):
            try:
                memory.update(cube.id, text=f"{name} {number}")
                made += 1
            except VersionConflict:
                continue
        return made

    results = together([partial(write, name) for name in ("one", "other")])
    made = sum(one for one in results if isinstance(one, int))
    history = memory.history(cube.id)
    assert [one.version for one in history] == list(range(1, made + 2))
    assert len({one.text for one in history}) == made + 1


def test_different_fields_do_not_overwrite(memory: Memory) -> None:
    """A text and a metadata change at once: never one of them silently undone."""
    for _ in range(5):
        cube = memory.store("old", metadata={"x": "old"})
        calls: list[Callable[[], object]] = [
            partial(memory.update, cube.id, text="new"),
            partial(memory.update, cube.id, metadata={"x": "new"}),
        ]
        results = together(calls)
        refused = sum(isinstance(one, VersionConflict) for one in results)
        now = memory.get(cube.id)
        changed = (now.text == "new") + (now.metadata == {"x": "new"})
        assert changed == 2 - refused


def test_store_many_from_eight_threads(memory: Memory) -> None:
    def write(thread: int) -> list[str]:
        return [
            cube.id
            for batch in range(5)
            for cube in memory.store_many(
                [{"text": f"thread {thread} batch {batch} item {n}"} for n in range(20)],
                run_id=f"r{thread}",
            )
        ]

    results = together([partial(write, thread) for thread in range(8)])
    ids = [item for one in results if isinstance(one, list) for item in one]
    assert len(set(ids)) == 800
    assert memory.stats().memories == 800
    assert {cube.id for cube in memory.list(limit=1_000)} == set(ids)
    assert len(memory.recall("thread 3 batch 2 item 7", top_k=900).hits) == 800


def test_readers_beside_writers(data_folder: Any, embedder: Embedder) -> None:
    """Recalls during writes, with an index following: no error, and never fewer hits than were acknowledged."""
    with MemoryOS(Settings(home=data_folder, index_threshold=50), embedder) as engine:
        engine.store_many(Scope(), [{"text": "the first cat"}])
        done = threading.Event()

        def write() -> int:
            for n in range(12):
                cube = engine.store_many(Scope(), [{"text": f"cat number{n} {i}"} for i in range(5)])[0]
                engine.forget("default", cube.id)
            done.set()
            return 0

        def read() -> int:
            rounds = 0
            while not done.is_set() or not rounds:
                known = engine.stats(Scope()).memories
                found = engine.recall(Scope(), "cat", top_k=500, explain=True).hits
                twins = sum(len((hit.why or {})["duplicates"]) for hit in found)
                assert len(found) + twins >= known - 1  # one may be forgotten in between
                rounds += 1
            return rounds

        results = together([write, read, read])
    assert all(isinstance(one, int) for one in results)
