"""After a deletion nothing is left: no file, no index, no answer holds the text."""

from __future__ import annotations

from pathlib import Path

import pytest

from memos.config import Settings
from memos.cube import Scope
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos_sdk import Memory
from memos_sdk.errors import NotFound

SECRET = "zanzibarium"
ELSEWHERE = "quokkafield"


def files_with(folder: Path, text: str) -> list[str]:
    """Files under a folder that hold a text in any of the ways SQLite or Chroma write it."""
    needles = [text.encode(), text.encode("utf-16-le"), text.upper().encode()]
    return [
        path.name
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(needle in path.read_bytes() for needle in needles)
    ]


def test_scan_finds_what_is_stored(memory: Memory, data_folder: Path) -> None:
    """The scan would prove nothing if it could not see a memory that is there."""
    memory.store(f"The code word is {SECRET}")
    assert files_with(data_folder, SECRET)


def test_forget_leaves_no_trace(memory: Memory, data_folder: Path) -> None:
    cube = memory.store(f"The code word is {SECRET}", metadata={"word": SECRET}, idempotency_key="k")
    kept = memory.store(f"The other word is {ELSEWHERE}")
    memory.update(cube.id, text=f"The code word was {SECRET}!")
    memory.recall(SECRET)
    memory.forget(cube.id)
    assert files_with(data_folder, SECRET) == []
    assert files_with(data_folder, ELSEWHERE) != []
    assert memory.get(kept.id) == kept
    memory.close()
    assert files_with(data_folder, SECRET) == []


def test_forget_all_leaves_no_trace(memory: Memory, data_folder: Path) -> None:
    memory.store_many([{"text": f"note {n} about {SECRET}", "run_id": "r"} for n in range(200)], user_id="u")
    memory.store(f"note about {ELSEWHERE}", user_id="other")
    memory.forget_all(user_id="u")
    assert files_with(data_folder, SECRET) == []
    assert files_with(data_folder, ELSEWHERE) != []


def test_long_text_leaves_no_trace(memory: Memory, data_folder: Path) -> None:
    """Texts of many pages lie on overflow pages of the database."""
    cube = memory.store(f"{SECRET} " * 20_000, metadata={"x": SECRET * 1_000})
    memory.forget(cube.id)
    assert files_with(data_folder, SECRET) == []


def test_indexed_forget_leaves_no_trace(data_folder: Path, embedder: Embedder) -> None:
    with MemoryOS(Settings(home=data_folder, index_threshold=10), embedder) as engine:
        cubes = engine.store_many(Scope(), [{"text": f"{SECRET} number{n}"} for n in range(30)])
        engine.relay.drain()
        receipt = engine.forget("default", cubes[0].id)
        assert receipt.pending == ()
        assert cubes[0].id not in [hit.id for hit in engine.recall(Scope(), "number0", top_k=100).hits]
        assert engine.forget_all(Scope()).pending == ()
        assert files_with(data_folder, SECRET) == []


def test_receipt_counts(memory: Memory) -> None:
    cube = memory.store("one", user_id="u")
    memory.update(cube.id, text="two")
    receipt = memory.forget(cube.id)
    assert (receipt.cube_ids, receipt.user_id, receipt.pending) == ((cube.id,), "u", ())
    assert receipt.removed["cubes"] == 1
    assert receipt.removed["versions"] == receipt.removed["vectors"] == 2
    assert receipt.removed["links"] == 0
    assert receipt.deleted_at >= cube.time.created_at


def test_receipt_of_forget_all(memory: Memory) -> None:
    cubes = memory.store_many([{"text": f"note {n}"} for n in range(1_200)])
    memory.update(cubes[0].id, text="changed")
    receipt = memory.forget_all()
    assert receipt.cube_ids == tuple(cube.id for cube in cubes)
    assert (receipt.removed["cubes"], receipt.removed["versions"]) == (1_200, 1_201)
    assert memory.stats().memories == memory.stats().versions == memory.stats().vectors == 0


@pytest.mark.parametrize(
    ("narrow", "left"),
    [
        ({"agent_id": "a"}, ["b r", "b s"]),
        ({"run_id": "r"}, ["a s", "b s"]),
        ({"agent_id": "a", "run_id": "r"}, ["a s", "b r", "b s"]),
        ({}, []),
    ],
)
def test_forget_all_of_an_agent_or_run(memory: Memory, narrow: dict[str, str], left: list[str]) -> None:
    for agent in "ab":
        for run in "rs":
            memory.store(f"{agent} {run}", agent_id=agent, run_id=run)
    memory.recall("a b r s")
    receipt = memory.forget_all(**narrow)
    assert receipt.removed["cubes"] == 4 - len(left)
    assert [cube.text for cube in memory.list()] == left
    assert sorted(hit.text for hit in memory.recall("a b r s").hits) == left


def test_forgotten_is_not_found(memory: Memory) -> None:
    cube = memory.store("x")
    memory.forget(cube.id)
    for operation in (memory.forget, memory.get, memory.history, memory.links):
        with pytest.raises(NotFound, match="may have been forgotten"):
            operation(cube.id)
    with pytest.raises(NotFound):
        memory.update(cube.id, text="y")


def test_second_forget_all_removes_nothing(memory: Memory) -> None:
    memory.store("x")
    memory.forget_all()
    receipt = memory.forget_all()
    assert (receipt.cube_ids, set(receipt.removed.values())) == ((), {0})


def test_forgotten_stays_forgotten(data_folder: Path, embedder: Embedder) -> None:
    with Memory(path=data_folder, embedder=embedder) as memory:
        cube = memory.store(SECRET)
        memory.forget(cube.id)
    with Memory(path=data_folder, embedder=embedder) as memory:
        assert memory.recall(SECRET).hits == ()
        with pytest.raises(NotFound):
            memory.get(cube.id)
    assert files_with(data_folder, SECRET) == []


def test_store_after_forget_all(memory: Memory) -> None:
    memory.store("the old cat")
    memory.recall("cat")
    memory.forget_all()
    memory.store("the new cat")
    assert [hit.text for hit in memory.recall("cat").hits] == ["the new cat"]
