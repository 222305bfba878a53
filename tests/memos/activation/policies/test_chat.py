"""Promoted with a policy, chatted with, and promoted to memory no more than was kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from memos.config import Settings
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import InvalidInput
from memos.runtime.host import ModelHost
from memos.store.jobs import FINAL, JobState
from tests.memos.about_ann import ANN, FACTS

pytestmark = pytest.mark.timeout(300)  # the first test loads the model


@pytest.fixture
def engine(data_folder: Path, embedder: Embedder, shallow_models: ModelHost) -> Iterator[MemoryOS]:
    with MemoryOS(Settings(home=data_folder), embedder, shallow_models) as opened:
        yield opened


@pytest.mark.parametrize("codec", ["snapkv:0.5", "razor:0.5+transform", "h2o:0.4+d2o+int4", "lazy:0.5+pca:0.5"])
def test_memory_is_pruned_saved_loaded_and_chatted_with(engine: MemoryOS, codec: str) -> None:
    notes = engine.store_many(ANN, [{"text": fact, "event_time": "2025-05-01"} for fact in FACTS])
    job = engine.promote("default", [note.id for note in notes], to="activation", codec=codec)
    while (job := engine.job("default", job.id)).state not in FINAL:
        threading.Event().wait(0.01)
    assert job.state is JobState.DONE, job.error
    assert job.result is not None
    cube = engine.get("default", str(job.result["cube_id"]))
    replies = [engine.chat(ANN, [{"role": "user", "content": "Which cat?"}], max_tokens=5, top_k=4) for _ in range(2)]
    assert [reply.tiers["activation"] for reply in replies] == [(cube.id,), (cube.id,)]
    assert replies[0].text == replies[1].text
    assert all(reply.usage.tokens_reused == cube.metadata["tokens"] for reply in replies)
    assert cube.metadata["codec"] == codec
    assert cube.metadata["loss"] > 0
    assert cube.metadata["bytes"] < 0.65 * cube.metadata["raw_bytes"]


def test_what_is_no_chain_is_refused_before_any_work(engine: MemoryOS) -> None:
    (note,) = engine.store_many(ANN, [{"text": FACTS[0]}])
    with pytest.raises(InvalidInput, match="keeps a share above 0"):
        engine.promote("default", [note.id], to="activation", codec="snapkv:1.5")
