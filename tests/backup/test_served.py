"""A restored KV file serves a chat on the real model, and a promotion of the same notes finds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from memos.config import Settings
from memos.cube import Scope
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.runtime.host import ModelHost
from memos.store.jobs import FINAL, Job

ANN = Scope(user_id="ann")
QUESTION = [{"role": "user", "content": "Where did the cat sleep?"}]


def promoted(engine: MemoryOS, ids: list[str]) -> Job:
    job = engine.promote("default", ids, to="activation")
    while (job := engine.job("default", job.id)).state not in FINAL:
        pass
    return job


@pytest.mark.soak
def test_restored_file_serves(tmp_path: Path, embedder: Embedder, shallow_models: ModelHost) -> None:
    with MemoryOS(Settings(home=tmp_path / "one"), embedder, shallow_models) as engine:
        texts = [f"Ann wrote on day {day} that Miso the cat slept on the radiator all day" for day in range(6)]
        ids = [cube.id for cube in engine.store_many(ANN, [{"text": text} for text in texts])]
        made = (promoted(engine, ids).result or {})["cube_id"]
        before = engine.chat(ANN, QUESTION, max_tokens=4)
        engine.backup(tmp_path / "b.tar.zst", user_id="ann")
    with MemoryOS(Settings(home=tmp_path / "other"), embedder, shallow_models) as engine:
        engine.restore(tmp_path / "b.tar.zst")
        after = engine.chat(ANN, QUESTION, max_tokens=4)
        assert (after.text, after.tiers["activation"], after.misses) == (before.text, (made,), ())
        assert after.usage.tokens_reused == before.usage.tokens_reused > 0
        assert promoted(engine, ids).result == {**(promoted(engine, ids).result or {}), "made": False, "cube_id": made}
