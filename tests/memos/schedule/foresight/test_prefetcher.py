"""Prefetching on a real store and a real model: what is used next is there, nobody waits, nothing forgotten stays."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch

from memos.config import Settings
from memos.cube import Kind, Scope
from memos.engine import MemoryOS
from memos.parametric.adapter import Adapter, Factors
from memos.parametric.checks import Frame
from memos.runtime.host import ModelHost, Serving
from memos.runtime.loop import Runtime
from memos.schedule.foresight.prefetcher import MOST_USERS
from memos.store.jobs import FINAL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memos.cube import MemCube
    from memos.embedding.base import Embedder
    from memos.llm.messages import ChatReply

pytestmark = pytest.mark.timeout(300)  # the first test loads the model

ANN, BOB = Scope(user_id="ann"), Scope(user_id="bob")
HARBOUR = "The harbour of Tromsø lies behind the long breakwater, where old boats are tied up for the winter months."
GARDEN = "The garden behind the yellow house has four apple trees, a small pond, and a bench that nobody ever sits on."


@pytest.fixture
def engine(data_folder: Path, embedder: Embedder, shallow_models: ModelHost) -> Iterator[MemoryOS]:
    """An engine on the shared model, in a loop of its own: nothing of other tests is in its pool."""
    host, shared = ModelHost(Settings()), shallow_models.serving()
    host._serving = Serving(shared.loaded, Runtime(shared.loaded), shared.format)
    with MemoryOS(Settings(home=data_folder, bundle_min_tokens=16), embedder, host) as opened:
        yield opened
    host.close()


def stored(engine: MemoryOS, text: str, scope: Scope = ANN) -> MemCube:
    (cube,) = engine.store_many(scope, [{"text": text, "event_time": "2025-05-01"}])
    return cube


def promoted(engine: MemoryOS, *notes: MemCube) -> str:
    job = engine.promote("default", [note.id for note in notes], to="activation")
    while (job := engine.job("default", job.id)).state not in FINAL:
        threading.Event().wait(0.01)
    assert job.result is not None, job.error
    return str(job.result["cube_id"])


def asked(engine: MemoryOS, question: str, scope: Scope = ANN, **options: Any) -> ChatReply:
    reply = engine.chat(scope, [{"role": "user", "content": question}], **{"max_tokens": 4, "top_k": 1, **options})
    settled(engine)
    return reply


def settled(engine: MemoryOS) -> None:
    assert engine._prefetcher.wait(60)


def cooled(engine: MemoryOS) -> None:
    """Let go of all that is in memory because it was used, as if others had needed the room."""
    for worker in (engine.activation._prefetching, engine.activation._hot._background):
        worker.submit(lambda: None).result()  # what a recall began to load has arrived
    engine.activation._hot.drop_all()


def held(engine: MemoryOS) -> frozenset[tuple[Kind, str]]:
    return cast("frozenset[tuple[Kind, str]]", engine._staging.keys)


def staged(engine: MemoryOS) -> set[str]:
    """Return the cubes whose files are staged."""
    keys = {key for kind, key in held(engine) if kind is Kind.ACTIVATION}
    return {file.cube_id for scope in (ANN, BOB) for file in engine.activation._activations(scope) if file.key in keys}


def alternating(engine: MemoryOS, scope: Scope = ANN) -> tuple[list[MemCube], list[str]]:
    """Promote two memories, and use them by turns."""
    notes = [stored(engine, text, scope) for text in (HARBOUR, GARDEN)]
    cubes = [promoted(engine, note) for note in notes]
    for _ in range(3):
        for text in (HARBOUR, GARDEN):
            engine.recall(scope, text, top_k=1)
            settled(engine)
    cooled(engine)
    return notes, cubes


def test_chat_finds_what_was_prefetched_and_says_the_same(engine: MemoryOS) -> None:
    _, cubes = alternating(engine)
    expected = asked(engine, GARDEN, reuse=False).text
    engine._staging.clear()
    cooled(engine)
    asked(engine, HARBOUR)
    assert cubes[1] in staged(engine)
    before = engine.stats(ANN)
    reply = asked(engine, GARDEN)
    assert reply.text == expected != ""
    assert reply.tiers["activation"] == (cubes[1],)
    assert reply.usage.milliseconds["read"] == 0.0
    after = engine.stats(ANN)
    assert (after.prefetch_hits, after.prefetch_misses) == (before.prefetch_hits + 1, before.prefetch_misses)
    assert 0 < after.prefetch_hit_rate <= 1
    assert after.prefetch_bytes >= after.prefetch_wasted_bytes
    assert engine.prefetched.hits == after.prefetch_hits


def test_what_is_in_memory_because_it_was_used_is_not_read_again(engine: MemoryOS) -> None:
    alternating(engine)
    engine._staging.clear()
    for text in (HARBOUR, GARDEN, HARBOUR):
        asked(engine, text)
    assert staged(engine) == set()


@pytest.mark.parametrize("change", ["update", "forget", "demote", "forget_all"])
def test_what_was_prefetched_of_a_memory_goes_with_it(engine: MemoryOS, change: str) -> None:
    notes, cubes = alternating(engine)
    asked(engine, HARBOUR)
    assert cubes[1] in staged(engine)
    if change == "update":
        engine.update("default", notes[1].id, text="The garden was sold, and nobody knows to whom.")
    elif change == "forget_all":
        engine.forget_all(ANN)
    else:
        engine.forget("default", notes[1].id) if change == "forget" else engine.demote("default", cubes[1])
    assert cubes[1] not in staged(engine)
    assert {key for _, key in held(engine)} <= {file.key for file in engine.activation._activations(ANN)}
    users = engine._prefetcher._users
    if change in ("forget", "forget_all"):
        assert notes[1].id not in repr([user.predictor._uses for user in users.values()])
    asked(engine, HARBOUR)
    assert cubes[1] not in staged(engine)


def test_what_is_forgotten_while_it_is_read_is_not_kept(engine: MemoryOS, monkeypatch: pytest.MonkeyPatch) -> None:
    notes, cubes = alternating(engine)
    engine._staging.clear()
    reading, forgotten = threading.Event(), threading.Event()
    fetch = engine.activation.fetch

    def slowly(*arguments: Any) -> Any:
        value = fetch(*arguments)
        reading.set()
        assert forgotten.wait(60)
        return value

    monkeypatch.setattr(engine.activation, "fetch", slowly)
    engine.recall(ANN, HARBOUR, top_k=1)
    assert reading.wait(60)
    engine.forget("default", notes[1].id)
    forgotten.set()
    settled(engine)
    assert cubes[1] not in staged(engine)
    assert engine.kv_files(ANN)[0].cube_id == cubes[0]


def test_closing_ends_a_prefetch(engine: MemoryOS, monkeypatch: pytest.MonkeyPatch) -> None:
    alternating(engine)
    engine._staging.clear()
    reading, fetch, read = threading.Event(), engine.activation.fetch, []

    def slowly(*arguments: Any) -> Any:
        reading.set()
        read.append(arguments[1])
        threading.Event().wait(0.2)
        return fetch(*arguments)

    monkeypatch.setattr(engine.activation, "fetch", slowly)
    engine.recall(ANN, HARBOUR, top_k=1)
    assert reading.wait(60)
    engine.close()
    assert len(read) == 1
    assert engine._staging.keys == frozenset()
    assert not any(
        thread.name == "memos-prefetch" and thread is engine._prefetcher._thread for thread in threading.enumerate()
    )


def test_predictions_never_cross_users(engine: MemoryOS) -> None:
    _, cubes = alternating(engine)
    _, others = alternating(engine, BOB)
    engine._staging.clear()
    engine.recall(BOB, HARBOUR, top_k=1)
    settled(engine)
    assert staged(engine) <= set(others)
    before = engine.stats(ANN)
    asked(engine, HARBOUR, BOB)
    assert staged(engine) <= set(others)
    assert engine.stats(ANN) == before
    assert not set(cubes) & set(engine._prefetcher._users["default", "bob"].candidates)
    assert engine.stats(Scope(user_id="stranger")).prefetch_bytes == 0


def test_nothing_is_read_while_the_model_is_busy(engine: MemoryOS, monkeypatch: pytest.MonkeyPatch) -> None:
    _, cubes = alternating(engine)
    engine._staging.clear()
    busy = threading.Event()
    busy.set()
    monkeypatch.setattr("memos.activation.loader.overlap_pays", lambda: False)
    monkeypatch.setattr(Runtime, "idle", property(lambda _: not busy.is_set()))
    engine.recall(ANN, HARBOUR, top_k=1)
    assert not engine._prefetcher.wait(0.2)
    assert staged(engine) == set()
    busy.clear()
    settled(engine)
    assert cubes[1] in staged(engine)


@pytest.mark.parametrize("why", ["off", "no model", "no files"])
def test_nothing_is_done_where_there_is_nothing_to_do(
    data_folder: Path, embedder: Embedder, shallow_models: ModelHost, why: str
) -> None:
    settings = Settings(home=data_folder, prefetch_bytes=0 if why == "off" else 1 << 28)
    models = None if why == "no model" else shallow_models
    shallow_models.serving()
    with MemoryOS(settings, embedder, models) as engine:
        stored(engine, HARBOUR)
        engine.recall(ANN, HARBOUR, top_k=1)
        settled(engine)
        assert engine._staging.keys == frozenset()
        assert (engine._prefetcher._thread is None) == (why != "no files")
        if models is None:
            assert engine.models.ready is None


def test_a_damaged_file_is_left_to_whoever_needs_it(engine: MemoryOS) -> None:
    alternating(engine)
    engine._staging.clear()
    for path in (engine.settings.home / "kv").rglob("*.safetensors"):
        data = bytearray(path.read_bytes())
        data[-9] ^= 1
        path.write_bytes(data)
    engine.recall(ANN, HARBOUR, top_k=1)
    settled(engine)
    assert engine._staging.keys == frozenset()
    reply = asked(engine, GARDEN)
    assert (reply.usage.tokens_reused, len(reply.misses)) == (0, 1)


def test_history_is_read_from_the_store_after_a_restart(engine: MemoryOS) -> None:
    _, cubes = alternating(engine)
    engine._heat.flush()
    engine._prefetcher.forget(ANN)
    engine._staging.clear()
    engine.recall(ANN, HARBOUR, top_k=1)
    settled(engine)
    uses = engine._prefetcher._users["default", "ann"].predictor._uses
    assert len(uses) == 3  # the last of each memory, and this one
    assert cubes[1] in staged(engine)


def test_users_are_bounded(engine: MemoryOS) -> None:
    note = stored(engine, HARBOUR)
    hits = engine.recall(ANN, HARBOUR, top_k=1).hits
    for number in range(MOST_USERS + 9):
        engine._prefetcher.used(Scope(user_id=f"user {number}"), hits)
        settled(engine)
    assert len(engine._prefetcher._users) == MOST_USERS
    assert note.id == hits[0].id


def test_adapters_are_prefetched_and_forgotten(engine: MemoryOS) -> None:
    notes = [stored(engine, text) for text in (HARBOUR, GARDEN)]
    frame = Frame.of(engine.models.serving().loaded)
    for seed, note in enumerate(notes):
        engine.parametric.publish(
            ANN, adapter(frame, seed), sources=[(note.id, note.version)], gate=None, provenance={}
        )
    for text in (HARBOUR, GARDEN, HARBOUR, GARDEN):
        engine.recall(ANN, text, top_k=1)
        settled(engine)
    assert {kind for kind, _ in held(engine)} == {Kind.PARAMETRIC}
    reply = asked(engine, GARDEN)
    assert len(reply.tiers["parametric"]) == 1
    assert engine.stats(ANN).prefetch_hits == 1
    assert len(engine._staging.keys) == 1  # the pool holds the other
    asked(engine, GARDEN)
    assert (engine.stats(ANN).prefetch_hits, engine.stats(ANN).prefetch_misses) == (1, 0)
    engine.forget("default", notes[0].id)
    assert engine._staging.keys == frozenset()


def adapter(frame: Frame, seed: int) -> Adapter:
    random = torch.Generator().manual_seed(seed)
    inward, outward = frame.sizes["mlp.down_proj"]
    down, up = torch.randn(2, inward, generator=random), torch.randn(outward, 2, generator=random)
    return Adapter(frame.base, {(1, "mlp.down_proj"): Factors(down / inward**0.5, up, 1.0)})
