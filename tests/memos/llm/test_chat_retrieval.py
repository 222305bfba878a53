"""Chats that attend a share of a KV file, on layers of the bundled model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memos.config import Settings
from memos.cube import MemCube
from memos.engine import MemoryOS
from memos.errors import InvalidInput, RetrievalRefused
from memos.llm.messages import ChatReply
from memos.runtime.host import ModelHost
from memos.store.jobs import FINAL, JobState
from tests.memos.about_ann import ANN, FACTS

pytestmark = pytest.mark.timeout(300)  # the first test loads the model

QUESTION = [{"role": "user", "content": "What is the name of Ann's cat?"}]
Open = Callable[..., MemoryOS]


def promoted(engine: MemoryOS) -> list[MemCube]:
    """Store facts about Ann, three times as many words as she needs, and promote them."""
    texts = [f"{fact}; and again, in other words: {fact}; which is to say that {fact}" for fact in FACTS]
    notes = engine.store_many(ANN, [{"text": text, "event_time": "2025-05-01"} for text in texts])
    job = engine.promote("default", [note.id for note in notes], to="activation")
    while (job := engine.job("default", job.id)).state not in FINAL:
        threading.Event().wait(0.01)
    assert job.state is JobState.DONE, job.error
    return notes


def ask(engine: MemoryOS, retrieval: str | None = None, **options: Any) -> ChatReply:
    given = {"max_tokens": 5, "top_k": 10, **options}
    return engine.chat(ANN, QUESTION, retrieval=retrieval, **given)


def test_usage_tells_what_was_attended(opened: Open) -> None:
    engine = opened()
    promoted(engine)
    exact, all_of_it, some = ask(engine), ask(engine, "quest:1"), ask(engine, "quest:0.5")
    assert exact.text == all_of_it.text
    assert [one.usage.retrieval for one in (exact, all_of_it, some)] == [None, "quest:1", "quest:0.5"]
    assert [one.usage.attended for one in (exact, all_of_it)] == [1.0, 1.0]
    assert 0.4 < some.usage.attended < 0.6
    assert some.usage.tokens_reused == exact.usage.tokens_reused > 100
    assert some.tiers == exact.tiers
    assert ask(engine, "vq:0.5").text == ask(engine, "vq:0.5").text


def test_chat_without_a_kv_file_is_exact(opened: Open) -> None:
    engine = opened()
    promoted(engine)
    plain, asked = ask(engine, reuse=False), ask(engine, "quest:0.5", reuse=False)
    assert asked.text == plain.text
    assert (asked.usage.retrieval, asked.usage.attended) == (None, 1.0)


def test_forgotten_memory_is_attended_by_nobody(opened: Open) -> None:
    engine = opened()
    notes = promoted(engine)
    assert ask(engine, "quest:0.5").usage.retrieval
    engine.forget("default", notes[0].id)
    reply = ask(engine, "quest:0.5")
    assert (reply.usage.retrieval, reply.usage.tokens_reused) == (None, 0)
    assert notes[0].id not in reply.tiers["plaintext"]


def test_memory_larger_than_the_pool_answers(opened: Open, models: ModelHost, shallow_model: Path) -> None:
    """Computed in the prompt it does not fit; its KV file is attended where it lies."""
    shape = models.serving().loaded.shape
    host = ModelHost(Settings(model=str(shallow_model), pool_bytes=shape.bytes(128)))
    try:
        engine = opened(host)
        promoted(engine)
        with pytest.raises(InvalidInput, match="MEMOS_POOL_BYTES"):
            ask(engine, reuse=False)
        reply = ask(engine, "quest:0.25")
        assert reply.usage.tokens_reused > 128
        assert 0 < reply.usage.attended < 0.35
        want = ask(opened(), "quest:0.25")
        assert reply.text == want.text
    finally:
        host.close()


@pytest.mark.parametrize("name", ["quest", "quest:0", "quest:1.5", "nearest:0.5", ""])
def test_bad_retrieval_is_refused_before_any_work(opened: Open, name: str) -> None:
    with pytest.raises(RetrievalRefused):
        ask(opened(), name)
