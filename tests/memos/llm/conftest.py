"""What is done around a model needs few of its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memos.config import Settings
from memos.engine import MemoryOS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memos.embedding.base import Embedder
    from memos.runtime.host import ModelHost


@pytest.fixture(scope="session")
def models(shallow_models: ModelHost) -> ModelHost:
    """The first layers of the bundled model; the whole of it in soak."""
    return shallow_models


@pytest.fixture
def opened(data_folder: Path, embedder: Embedder, models: ModelHost) -> Iterator[Callable[..., MemoryOS]]:
    """Open engines on the same folder, one after another, on the shared model unless told otherwise."""
    engines: list[MemoryOS] = []

    def open_(host: ModelHost = models, **settings: Any) -> MemoryOS:
        for engine in engines:
            engine.close()
        engines.append(MemoryOS(Settings(home=data_folder, **settings), embedder, host))
        return engines[-1]

    yield open_
    for engine in engines:
        engine.close()
