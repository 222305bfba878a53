"""The client: the same surface sync and async, and an asynchronous life from beginning to end."""

from __future__ import annotations

import ast
import asyncio
import inspect
from pathlib import Path

import pytest

import memos_sdk
from memos.embedding.base import Embedder
from memos_sdk import AsyncMemory, Memory, errors
from memos_sdk.errors import InvalidText, NotFound, StoreClosed, StoreInUse

CONTRACT = {
    "store",
    "store_many",
    "recall",
    "get",
    "list",
    "history",
    "links",
    "update",
    "forget",
    "forget_all",
    "export",
    "import_",
    "stats",
    "job",
    "jobs",
    "cancel",
    "retry",
    "wait",
    "close",
}
#: These take an id, or no argument at all.
OF_NOBODY = {"get", "history", "links", "update", "forget", "job", "cancel", "retry", "wait", "close"}


def public(kind: type) -> dict[str, object]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("_")}


def test_both_have_the_contract() -> None:
    assert public(Memory).keys() == public(AsyncMemory).keys()
    assert public(Memory).keys() >= CONTRACT


@pytest.mark.parametrize("name", [*sorted(CONTRACT), "__init__"])
def test_methods_agree(name: str) -> None:
    one, other = getattr(Memory, name), getattr(AsyncMemory, name)
    assert inspect.signature(one) == inspect.signature(other)
    assert inspect.getdoc(one) == inspect.getdoc(other)
    assert inspect.iscoroutinefunction(other) == (name != "__init__")


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_methods_are_documented(name: str) -> None:
    assert (getattr(Memory, name).__doc__ or "").strip()


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_options_are_keywords(name: str) -> None:
    """At most one positional argument: the rest may be reordered without breaking anybody."""
    parameters = list(inspect.signature(getattr(Memory, name)).parameters.values())[1:]
    positional = [one for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert len(positional) <= 1


@pytest.mark.parametrize("name", sorted(CONTRACT - OF_NOBODY))
def test_user_may_be_omitted(name: str) -> None:
    assert inspect.signature(getattr(Memory, name)).parameters["user_id"].default is None


def test_all_is_sorted_and_complete(repository: Path) -> None:
    assert memos_sdk.__all__ == sorted(memos_sdk.__all__)
    tree = ast.parse((repository / "sdk/memos_sdk/__init__.py").read_text())
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("memos_sdk")
        for alias in node.names
    }
    assert set(memos_sdk.__all__) == imported | {"__version__"}
    assert all(hasattr(memos_sdk, name) for name in memos_sdk.__all__)


def test_engine_and_sdk_have_one_version() -> None:
    import memos

    assert memos_sdk.__version__ == memos.__version__


def test_async_life(tmp_path: Path, embedder: Embedder) -> None:
    async def live() -> None:
        async with AsyncMemory(path=tmp_path, embedder=embedder) as memory:
            cube = await memory.store("Ann adopted a cat", user_id="u", metadata={"x": 1})
            many = await memory.store_many([{"text": f"note {n}"} for n in range(5)], user_id="u")
            found = await memory.recall("which cat?", user_id="u")
            assert found.hits[0].id == cube.id
            changed = await memory.update(cube.id, text="Ann adopted a dog", expected_version=1)
            assert changed == await memory.get(cube.id)
            assert [one.version for one in await memory.history(cube.id)] == [1, 2]
            assert await memory.links(cube.id) == []
            assert len(await memory.list(user_id="u")) == 6
            assert (await memory.stats(user_id="u")).memories == 6
            assert (await memory.forget(cube.id)).removed["versions"] == 2
            with pytest.raises(NotFound):
                await memory.get(cube.id)
            with pytest.raises(InvalidText):
                await memory.store("")
            receipt = await memory.forget_all(user_id="u")
            assert set(receipt.cube_ids) == {one.id for one in many}

    asyncio.run(live())


def test_async_notes(tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMOS_NOTES")

    async def live() -> None:
        async with AsyncMemory(path=tmp_path, embedder=embedder) as memory:
            old = await memory.store("I live in Rome.", user_id="u")
            new = await memory.store("I moved from Rome to Oslo.", user_id="u")
            job = await memory.wait(await memory.refine(user_id="u"))
            assert job.state == "done"
            assert [(one.type, one.target_id) for one in await memory.links(old.id)] == [("contradicts", new.id)]
            assert (await memory.history(old.id))[1].changes
            back = await memory.rollback(old.id, 1)
            assert (back.version, back.descriptor) == (3, (await memory.history(old.id))[0].descriptor)
            assert (await memory.stats(user_id="u")).waiting == 0

    asyncio.run(live())


def test_async_calls_overlap(tmp_path: Path, embedder: Embedder) -> None:
    async def live() -> int:
        async with AsyncMemory(path=tmp_path, embedder=embedder) as memory:
            await asyncio.gather(*(memory.store(f"note {n}") for n in range(20)))
            found = await asyncio.gather(*(memory.recall(f"note {n}", top_k=1) for n in range(20)))
            assert [one.hits[0].text for one in found] == [f"note {n}" for n in range(20)]
            return (await memory.stats()).memories

    assert asyncio.run(live()) == 20


def test_async_opens_on_first_use(tmp_path: Path, embedder: Embedder) -> None:
    async def live() -> None:
        unused = AsyncMemory(path=tmp_path, embedder=embedder)  # held by `memory`
        with pytest.raises(StoreInUse):
            await unused.stats()
        await unused.close()

    with Memory(path=tmp_path, embedder=embedder) as memory:
        asyncio.run(live())
        assert memory.stats().memories == 0


@pytest.mark.parametrize("use_first", [True, False])
def test_async_closed(tmp_path: Path, embedder: Embedder, use_first: bool) -> None:
    async def live() -> None:
        memory = AsyncMemory(path=tmp_path, embedder=embedder)
        if use_first:
            await memory.store("x")
        await memory.close()
        await memory.close()
        with pytest.raises(StoreClosed):
            await memory.stats()

    asyncio.run(live())


def test_values_are_immutable(memory: Memory) -> None:
    cube = memory.store("x")
    with pytest.raises(ValueError, match="frozen"):
        cube.text = "y"  # type: ignore[misc]


def test_errors_are_reachable() -> None:
    assert memos_sdk.errors is errors
    assert issubclass(errors.VersionConflict, memos_sdk.MemosError)
