"""Two memories from text to weights and back, on the bundled model: learnt, gated, served, forgotten, trained again."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from memos.activation.bundle import bundle_of, note_of
from memos.config import Settings
from memos.cube import MemCube, Scope
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import Conflict, NotFound
from memos.parametric.adapter import Adapter
from memos.parametric.distil.examples import lesson_of
from memos.parametric.distil.facts import facts_of
from memos.parametric.distil.recipe import Recipe
from memos.parametric.distil.run import student_of
from memos.parametric.distil.trainer import Trainer
from memos.runtime.host import ModelHost
from memos.runtime.uses import AdapterUse
from memos.store.adapters import AdapterRecord
from memos.store.jobs import FINAL, Job, JobState
from memos.store.scoped import unfinished_jobs

pytestmark = pytest.mark.timeout(1200)  # on the one thread that each test process has

SCOPE, OTHER = Scope(user_id="ilse"), Scope(user_id="tomo")
#: A few steps on one fact, and nothing else: it would pass no gate.
BRIEF = Recipe(epochs=4, least_steps=1, with_text=0.0, preserve=0.0, distinguish=0.0)
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


def log_likelihood(engine: MemoryOS, models: ModelHost, question: str, answer: str, scope: Scope = SCOPE) -> float:
    """Return the mean log probability of an answer's tokens, with whatever may be served to a user now."""
    serving = models.serving()
    prompt = serving.format.prompt([], [{"role": "user", "content": question}])
    said = serving.format.encode_text(answer)
    records = engine.parametric.published(scope, serving.loaded.identity.base)
    uses = [use(engine, record, scope) for record in records]
    rows = serving.runtime.logits([*prompt, *said], adapters=uses)[len(prompt) - 1 : -1]
    return float(torch.log_softmax(rows, -1).gather(1, torch.tensor(said)[:, None]).mean())


def use(engine: MemoryOS, record: AdapterRecord, scope: Scope) -> AdapterUse:
    adapter = engine.parametric.load(scope, record)
    assert isinstance(adapter, Adapter)
    return AdapterUse(adapter.digest, lambda: adapter)


def test_forgotten_fact_is_as_unlikely_as_before(engine: MemoryOS, models: ModelHost) -> None:
    (note,) = engine.store_many(OTHER, [{"text": LOCKER}])
    serving, bundle = models.serving(), bundle_of([note_of(note)])
    base = log_likelihood(engine, models, QUESTION, "4471", OTHER)
    student = student_of(serving, bundle, BRIEF)
    Trainer(student, lesson_of(facts_of([note]), serving.loaded, serving.format, BRIEF), BRIEF).run(lambda _: None)
    engine.parametric.publish(OTHER, student.finish(), sources=bundle.sources, gate=None, provenance={})
    assert log_likelihood(engine, models, QUESTION, "4471", OTHER) > base + 1
    assert engine.forget("default", note.id).removed["adapters"] == 1
    assert log_likelihood(engine, models, QUESTION, "4471", OTHER) == pytest.approx(base, abs=1e-4)


@pytest.mark.soak  # it trains for minutes, twice
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
