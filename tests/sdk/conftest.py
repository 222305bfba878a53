"""Every test of the client runs four times: embedded and over HTTP, sync and async."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memos_sdk import AsyncMemory, Memory

if TYPE_CHECKING:
    from memos.embedding.base import Embedder

KINDS = ("embedded", "http", "async embedded", "async http")
#: Hundreds of bad values through both clients and both transports; through each pair of them in soak.
BAD_INPUT_KINDS = KINDS if os.environ.get("HYPOTHESIS_PROFILE") == "soak" else ("http", "async embedded")


class Driven:
    """An :class:`AsyncMemory` that is called like a :class:`Memory`: each call is run to its end."""

    def __init__(self, memory: AsyncMemory) -> None:
        self._memory = memory
        self._runner = asyncio.Runner()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._memory, name)
        return lambda *arguments, **options: self._runner.run(method(*arguments, **options))

    def close(self) -> None:
        """Close the memory and the loop."""
        self._runner.run(self._memory.close())
        self._runner.close()


def open_memory(kind: str, folder: Path, embedder: Embedder, running: Any) -> Any:
    """Return a client of a kind, on a store of its own."""
    where: dict[str, Any] = {"path": folder, "embedder": embedder}
    if kind.endswith("http"):
        where = {"url": running.url, "api_key": running.key()}
    return Driven(AsyncMemory(**where)) if kind.startswith("async") else Memory(**where)


@pytest.fixture(params=KINDS)
def memory(request: pytest.FixtureRequest, data_folder: Path, embedder: Embedder, running: Any) -> Iterator[Memory]:
    """An empty store, through every kind of client."""
    opened = open_memory(request.param, data_folder, embedder, running)
    yield opened
    opened.close()


@pytest.fixture(scope="module", params=BAD_INPUT_KINDS)
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, embedder: Embedder, running: Any
) -> Iterator[Memory]:
    """A store with two memories; every test here leaves it as it was."""
    opened = open_memory(request.param, tmp_path_factory.mktemp("store"), embedder, running)
    opened.store("Ann adopted a cat", metadata={"x": "a cat", "n": 1})
    opened.store("Bob went to Paris", metadata={"x": ["b", 2], "n": True})
    yield opened
    opened.close()
