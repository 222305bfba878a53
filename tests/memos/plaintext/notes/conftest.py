"""Stores that write notes, with the real embedder where meaning counts and a made-up one where it does not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from memos.config import Settings
from memos.cube import Scope
from memos.embedding.local import LocalEmbedder
from memos.engine import MemoryOS
from memos.store.jobs import FINAL, Job, JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memos.cube import MemCube
    from memos.embedding.base import Embedder


@pytest.fixture(autouse=True)
def notes_on(no_user_data: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write notes, as users' stores do."""
    monkeypatch.delenv("MEMOS_NOTES")


@pytest.fixture(scope="session")
def real_embedder() -> Embedder:
    """The bundled model."""
    return LocalEmbedder()


@pytest.fixture
def kept(data_folder: Path, real_embedder: Embedder) -> Iterator[MemoryOS]:
    """An engine with the bundled embedder."""
    with MemoryOS(Settings(home=data_folder), real_embedder) as opened:
        yield opened


@pytest.fixture
def written() -> Callable[[MemoryOS, str], Job]:
    """Wait until no memory of a user waits for its note; returns the job that saw to it."""

    def wait(engine: MemoryOS, user_id: str = "default") -> Job:
        job = engine.refine(Scope(user_id=user_id))
        deadline = time.monotonic() + 60
        while job.state not in FINAL and time.monotonic() < deadline:
            time.sleep(0.01)
            job = engine.job("default", job.id)
        assert job.state is JobState.DONE, job
        return job

    return wait


@pytest.fixture
def told(written: Callable[[MemoryOS, str], Job]) -> Callable[..., list[MemCube]]:
    """Store texts one after the other and wait for their notes; returns the memories as they are then."""

    def tell(engine: MemoryOS, *texts: str, user_id: str = "default", **item: Any) -> list[MemCube]:
        scope = Scope(user_id=user_id)
        cubes = [engine.store_many(scope, [{"text": text, **item}])[0] for text in texts]
        written(engine, user_id)
        return [engine.get("default", cube.id) for cube in cubes]

    return tell
