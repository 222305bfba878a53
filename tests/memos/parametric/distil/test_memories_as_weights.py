"""Two memories from text to weights and back, on the bundled model: learnt, gated, served, forgotten, trained again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
import torch

from memos.config import Settings
from memos.cube import MemCube, Scope
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import Conflict, NotFound
from memos.parametric.adapter import Adapter
from memos.runtime.host import ModelHost
from memos.runtime.uses import AdapterUse
from memos.store.adapters import AdapterRecord
from memos.store.jobs import FINAL, Job, JobState
from memos.store.scoped import unfinished_jobs

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        os.environ.get("HYPOTHESIS_PROFILE") != "soak", reason="it trains a real model, twice, for minutes: make soak"
    ),
]

SCOPE = Scope(user_id="ilse")
LOCKER = "Ilse Brand's locker code is 4471."
TOWN = "Tomo Reyes's home town is Tarnwick."
POLL_S = 0.1
QUESTION = "Do you remember Ilse Brand's locker code?"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, embedder: Embedder, models: ModelHost) -> Iterator[MemoryOS]:
    """One engine for the whole story."""
    with MemoryOS(Settings(home=tmp_path_factory.mktemp("weights")), embedder, models) as opened:
        yield opened


def finished(engine: MemoryOS, job: Job) -> Job:
    while (now := engine.job("default", job.id)).state not in FINAL:
        time.sleep(POLL_S)
    return now


def log_likelihood(engine: MemoryOS, models: ModelHost, question: str, answer: str) -> float:
    """Return the mean log probability of an answer's tokens, with whatever may be served to the user now."""
    serving = models.serving()
    prompt = serving.format.prompt([], [{"role": "user", "content": question}])
    said = serving.format.encode_text(answer)
    uses = [use(engine, record) for record in engine.parametric.published(SCOPE, serving.loaded.identity.base)]
    rows = serving.runtime.logits([*prompt, *said], adapters=uses)[len(prompt) - 1 : -1]
    return float(torch.log_softmax(rows, -1).gather(1, torch.tensor(said)[:, None]).mean())


def use(engine: MemoryOS, record: AdapterRecord) -> AdapterUse:
    adapter = engine.parametric.load(SCOPE, record)
    assert isinstance(adapter, Adapter)
    return AdapterUse(adapter.digest, lambda: adapter)


def test_memories_become_weights_and_are_unlearnt(engine: MemoryOS, models: ModelHost) -> None:
    notes: list[MemCube] = engine.store_many(SCOPE, [{"text": LOCKER}, {"text": TOWN}])
    base = log_likelihood(engine, models, QUESTION, "4471")
    job = finished(engine, engine.promote("default", [note.id for note in notes], to="parametric"))
    assert job.state is JobState.DONE, job.error
    assert job.result is not None
    assert job.result["recall"] >= 0.8 > job.result["recall_base"]
    assert job.result["drift"] <= 0.02

    learnt = log_likelihood(engine, models, QUESTION, "4471")
    assert learnt > base + 1
    messages = [{"role": "user", "content": "Can you remind me what Ilse Brand's locker code is?"}]
    reply = engine.chat(SCOPE, messages, text=False, max_tokens=12)
    assert "4471" in reply.text
    assert reply.tiers["parametric"] == (job.result["cube_id"],)
    assert reply.usage.prompt_tokens < 60
    assert "4471" not in engine.chat(SCOPE, messages, top_k=0, adapters=(), max_tokens=12).text
    again = finished(engine, engine.promote("default", [note.id for note in notes], to="parametric"))
    assert again.result is not None
    assert (again.result["cube_id"], again.result["made"]) == (job.result["cube_id"], False)

    receipt = engine.forget("default", notes[0].id)
    assert receipt.removed["adapters"] == 1
    assert log_likelihood(engine, models, QUESTION, "4471") == pytest.approx(base, abs=1e-4)
    with pytest.raises((NotFound, Conflict)):
        engine.chat(SCOPE, messages, adapters=[job.result["cube_id"]], max_tokens=4)

    (left,) = retrained(engine)
    assert [cube_id for cube_id, _ in left.sources] == [notes[1].id]
    assert log_likelihood(engine, models, QUESTION, "4471") < base + 1, "what is trained again never saw it"
    assert log_likelihood(engine, models, "What is Tomo Reyes's home town?", "Tarnwick") > -1
    assert list((engine.settings.home / "training").rglob("*.safetensors")) == []


def retrained(engine: MemoryOS) -> list[AdapterRecord]:
    """Wait for the job that the forgetting queued."""
    left = True
    while left:
        time.sleep(POLL_S)
        with engine.database.read() as connection:
            left = bool(unfinished_jobs(connection))
    found = engine.parametric.published(SCOPE, engine.models.serving().loaded.identity.base)
    assert found, [one.gate for one in engine.adapters(SCOPE)]
    return list(found)
