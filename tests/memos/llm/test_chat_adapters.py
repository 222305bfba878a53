"""Chats that run with adapters and cartridges of what they recall, on the real bundled model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from memos.activation.bundle import bundle_of, note_of
from memos.config import Settings
from memos.cube import MemCube, Scope
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import AdapterRefused, Conflict, InvalidInput, NotFound
from memos.llm.messages import ChatReply
from memos.parametric.adapter import Adapter, Factors
from memos.parametric.cartridge import TrainedCartridge
from memos.parametric.checks import Frame
from memos.parametric.peft_folder import write_folder
from memos.runtime.host import ModelHost, Serving, owner_of
from memos.runtime.loop import Request, Runtime
from memos.runtime.uses import AdapterUse, Cartridge
from memos.store.jobs import FINAL

pytestmark = pytest.mark.timeout(300)  # the first test loads the model

ANN = Scope(user_id="ann")
BOB = Scope(user_id="bob")
ELSEWHERE = Scope(tenant="elsewhere", user_id="ann")
CAT = "Ann adopted a grey cat called Miso in March"
MOVE = "Ann moved from Rome to Oslo in May"
QUESTION = "What is the name of Ann's cat?"


@pytest.fixture
def engine(data_folder: Path, embedder: Embedder, models: ModelHost) -> Iterator[MemoryOS]:
    """An engine on the shared model, in a loop of its own: nothing of other tests is in its pool."""
    host, shared = ModelHost(Settings()), models.serving()
    host._serving = Serving(shared.loaded, Runtime(shared.loaded), shared.format)
    with MemoryOS(Settings(home=data_folder), embedder, host) as opened:
        yield opened
    host.close()


@pytest.fixture(scope="session")
def frame(models: ModelHost) -> Frame:
    return Frame.of(models.serving().loaded)


@pytest.fixture(scope="session")
def adapter(frame: Frame) -> Callable[..., Adapter]:
    """Make a random adapter of some modules that changes what the model says."""

    def make(seed: int = 0, rank: int = 2) -> Adapter:
        random, layers = torch.Generator().manual_seed(seed), frame.kv.layers
        factors = {}
        downs = range(layers // 8, layers - 1, max(1, layers // 10))
        for place in [(layers * 2 // 3, "self_attn.o_proj"), *((layer, "mlp.down_proj") for layer in downs)]:
            inward, outward = frame.sizes[place[1]]
            down = torch.randn(rank, inward, generator=random) / inward**0.5
            factors[place] = Factors(down, torch.randn(outward, rank, generator=random), 20.0)
        return Adapter(frame.base, factors)

    return make


@pytest.fixture(scope="session")
def cartridge(models: ModelHost) -> TrainedCartridge:
    """Stand for a trained one with what the model computes of a text itself."""
    serving = models.serving()
    tokens = [*serving.format.head, *serving.format.encode_text("Ann's cat is called Pretzel.")][:21]
    return TrainedCartridge(serving.loaded.identity.base, serving.runtime.prefill(tokens))


def stored(engine: MemoryOS, *facts: str, scope: Scope = ANN) -> list[MemCube]:
    return engine.store_many(scope, [{"text": fact, "event_time": "2025-05-01"} for fact in facts])


def published(engine: MemoryOS, trained: Any, *notes: MemCube, scope: Scope = ANN, name: str | None = None) -> str:
    sources = [(note.id, note.version) for note in notes]
    return engine.parametric.publish(scope, trained, sources=sources, gate=None, provenance={}, name=name)


def ask(engine: MemoryOS, question: str = QUESTION, scope: Scope = ANN, **options: Any) -> ChatReply:
    given = {"max_tokens": 4, "top_k": 4, **options}
    return engine.chat(scope, [{"role": "user", "content": question}], **given)


def promoted(engine: MemoryOS, notes: Sequence[MemCube]) -> str:
    job = engine.promote("default", [note.id for note in notes], to="activation")
    while (job := engine.job("default", job.id)).state not in FINAL:
        pass
    assert job.result is not None, job.error
    return str(job.result["cube_id"])


def damage(engine: MemoryOS) -> None:
    for path in (engine.settings.home / "adapters").rglob("*.safetensors"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)


def alone(engine: MemoryOS, *notes: MemCube, adapters: Sequence[Adapter] = (), **how: Any) -> tuple[str, int]:
    """Return what the model says to a prompt with these memories, and how long the prompt is."""
    serving = engine.models.serving()
    memory = bundle_of(map(note_of, notes)).tokens(serving.format.encode_text)
    tokens = serving.format.prompt(memory, [{"role": "user", "content": QUESTION}])
    uses = tuple(AdapterUse(one.digest, lambda one=one: one) for one in adapters)  # type: ignore[misc]
    fillers = (0,) * (how["cartridge"].tokens if "cartridge" in how else 0)
    request = Request((*fillers, *tokens), max_tokens=4, adapters=uses, share=False, **how)
    return serving.runtime.generate(request).finish().text, len(tokens)


# ------------------------------------------------------------------ what is used


def test_chat_runs_with_the_adapter_of_what_it_recalls(engine: MemoryOS, adapter: Callable[..., Adapter]) -> None:
    (cat,) = stored(engine, CAT)
    plain = ask(engine)
    trained = adapter(1)
    cube_id = published(engine, trained, cat)
    reply = ask(engine)
    assert reply.tiers == {"parametric": (cube_id,), "plaintext": (cat.id,)}
    assert reply.text != plain.text
    assert (reply.text, reply.usage.prompt_tokens) == alone(engine, cat, adapters=[trained])
    assert reply.misses == ()
    assert engine.adapter("default", cube_id).hits == 1
    assert ask(engine, adapters=()).model_dump(include={"text", "tiers"}) == plain.model_dump(include={"text", "tiers"})
    assert engine.adapter("default", cube_id).hits == 1


def test_adapter_of_what_is_not_recalled_is_left_alone(engine: MemoryOS, adapter: Callable[..., Adapter]) -> None:
    _, move = stored(engine, CAT, MOVE)
    published(engine, adapter(1), move)
    assert "parametric" not in ask(engine, top_k=1).tiers


def test_the_adapter_of_the_best_note_runs_and_what_others_hold_is_text(
    engine: MemoryOS, adapter: Callable[..., Adapter]
) -> None:
    cat, move = stored(engine, CAT, MOVE)
    first, second = adapter(1), adapter(2, rank=5)
    of_cat, of_move = published(engine, first, cat), published(engine, second, move)
    reply = ask(engine, text=False)
    assert reply.tiers == {"parametric": (of_cat,), "plaintext": (move.id,)}
    assert reply.text == alone(engine, move, adapters=[first])[0]
    named = ask(engine, adapters=[of_cat, of_move])
    assert named.text == alone(engine, cat, move, adapters=[first, second])[0]


def test_of_adapters_that_hold_the_best_note_the_one_that_holds_more_runs(
    engine: MemoryOS, adapter: Callable[..., Adapter]
) -> None:
    cat, move = stored(engine, CAT, MOVE)
    published(engine, adapter(1), cat)
    both = published(engine, adapter(2), cat, move)
    assert ask(engine).tiers["parametric"] == (both,)


def test_text_of_held_memories_stays_out_where_that_is_asked(engine: MemoryOS, adapter: Callable[..., Adapter]) -> None:
    cat, move = stored(engine, CAT, MOVE)
    trained = adapter(1)
    cube_id = published(engine, trained, cat)
    whole, short = ask(engine), ask(engine, text=False)
    assert short.usage.prompt_tokens < whole.usage.prompt_tokens
    assert short.tiers == {"parametric": (cube_id,), "plaintext": (move.id,)}
    assert (short.text, short.usage.prompt_tokens) == alone(engine, move, adapters=[trained])
    assert (whole.text, whole.usage.prompt_tokens) == alone(engine, cat, move, adapters=[trained])
    assert ask(engine, text=False, adapters=()).usage.prompt_tokens == whole.usage.prompt_tokens


def test_cartridge_serves(engine: MemoryOS, cartridge: TrainedCartridge) -> None:
    cat, move = stored(engine, CAT, MOVE)
    cube_id = published(engine, cartridge, cat)
    reply = ask(engine, text=False)
    trained = Cartridge(cartridge.digest, cartridge.tokens, lambda: cartridge.kv)
    assert (reply.text, reply.usage.prompt_tokens) == alone(engine, move, cartridge=trained)
    assert reply.tiers["parametric"] == (cube_id,)
    usage = reply.usage  # the cartridge is no part of the prompt
    assert (usage.tokens_shared, usage.tokens_recomputed) == (0, usage.prompt_tokens)
    again = ask(engine, text=False).usage
    assert again.tokens_shared + again.tokens_recomputed == again.prompt_tokens
    assert again.tokens_shared > 0


def test_cartridge_and_adapter_serve_together(
    engine: MemoryOS, adapter: Callable[..., Adapter], cartridge: TrainedCartridge
) -> None:
    cat, move = stored(engine, CAT, MOVE)
    trained = adapter(1)
    ids = published(engine, cartridge, cat), published(engine, trained, move)
    with_cartridge = Cartridge(cartridge.digest, cartridge.tokens, lambda: cartridge.kv)
    reply = ask(engine, adapters=ids)
    assert set(reply.tiers["parametric"]) == set(ids)
    assert reply.text == alone(engine, cat, move, adapters=[trained], cartridge=with_cartridge)[0]


# ------------------------------------------------------------------ what is asked for by id


def test_named_adapters_are_used_whatever_is_recalled(
    engine: MemoryOS, adapter: Callable[..., Adapter], tmp_path: Path
) -> None:
    cat, move = stored(engine, CAT, MOVE)
    style = adapter(3)
    write_folder(style, tmp_path / "style")
    imported = engine.import_adapter(ANN, tmp_path / "style").cube_id
    published(engine, adapter(1), cat)
    other = published(engine, adapter(2), move)
    assert imported not in ask(engine, top_k=1).tiers["parametric"]  # only by name
    reply = ask(engine, top_k=1, adapters=[imported, other, imported])
    assert reply.tiers == {"parametric": (imported, other), "plaintext": (cat.id,)}
    assert reply.text == alone(engine, cat, adapters=[style, adapter(2)])[0]
    assert ask(engine, top_k=1, adapters=[imported]).text == alone(engine, cat, adapters=[style])[0]


def test_adapters_that_may_not_be_served_are_refused(engine: MemoryOS, adapter: Callable[..., Adapter]) -> None:
    cat, _ = stored(engine, CAT, MOVE)
    (theirs,) = stored(engine, CAT, scope=BOB)
    (elsewhere,) = stored(engine, CAT, scope=ELSEWHERE)
    before, now = published(engine, adapter(1), cat), published(engine, adapter(2), cat)
    rejected = engine.parametric.reject(ANN, adapter(3), sources=[(cat.id, 1)], gate={"passed": False}, provenance={})
    strange = [
        published(engine, adapter(4), theirs, scope=BOB),
        published(engine, adapter(4), elsewhere, scope=ELSEWHERE),
        "no such id",
        cat.id,
    ]
    for cube_id in strange:
        with pytest.raises(NotFound):
            ask(engine, adapters=[now, cube_id])
    for cube_id in (before, rejected):
        with pytest.raises(Conflict, match="not served"):
            ask(engine, adapters=[cube_id])
    assert ask(engine).tiers["parametric"] == (now,)
    assert ask(engine, adapters=[now]).tiers["parametric"] == (now,)
    assert "parametric" not in ask(engine, scope=Scope(user_id="carl")).tiers
    assert engine.models.serving().runtime.idle


def test_what_the_agent_may_not_see_is_not_served_to_it(engine: MemoryOS, adapter: Callable[..., Adapter]) -> None:
    mine, other = (Scope(user_id="ann", agent_id=agent) for agent in ("mine", "other"))
    (cat,) = stored(engine, CAT, scope=mine)
    stored(engine, MOVE, scope=other)
    cube_id = published(engine, adapter(1), cat, scope=mine)
    assert ask(engine, scope=mine).tiers["parametric"] == (cube_id,)
    assert "parametric" not in ask(engine, scope=other).tiers
    with pytest.raises(Conflict):
        ask(engine, scope=other, adapters=[cube_id])


def test_options_that_cannot_be_are_refused(engine: MemoryOS, cartridge: TrainedCartridge) -> None:
    cat, move = stored(engine, CAT, MOVE)
    shape = cartridge.kv.shape
    short = TrainedCartridge(cartridge.base, type(cartridge.kv)(shape, cartridge.kv.data[:, :, :, :5].contiguous()))
    two = [published(engine, cartridge, cat), published(engine, short, move)]
    with pytest.raises(InvalidInput, match="one cartridge"):
        ask(engine, adapters=two)
    assert len(ask(engine).tiers["parametric"]) == 1
    for wrong in ("an id", [7], ["x"] * 17):
        with pytest.raises(InvalidInput, match="adapters"):
            ask(engine, adapters=wrong)


# ------------------------------------------------------------------ beside KV files


def test_kv_file_goes_before_adapters_unless_these_are_named(engine: MemoryOS, adapter: Callable[..., Adapter]) -> None:
    facts = (CAT, MOVE, "Ann's brother Tom is allergic to peanuts", "Ann plays chess with Ingrid at the library")
    notes = stored(engine, *facts)
    plain = ask(engine)
    file = promoted(engine, notes)
    cube_id = published(engine, adapter(1), notes[0])
    loaded, named, anew = ask(engine), ask(engine, adapters=[cube_id]), ask(engine, reuse=False)
    assert loaded.tiers == {"activation": (file,), "plaintext": ()}
    assert loaded.text == plain.text == ask(engine, adapters=()).text
    assert named.tiers["parametric"] == anew.tiers["parametric"] == (cube_id,)
    assert named.text == anew.text == alone(engine, *notes, adapters=[adapter(1)])[0] != plain.text
    assert (named.usage.tokens_reused, named.usage.tokens_missed) == (0, 0)
    cube_id = published(engine, adapter(2), notes[0])
    damage(engine)
    recomputed = ask(engine, reuse=False)
    assert [miss.cube_id for miss in recomputed.misses] == [cube_id]
    assert recomputed.text == plain.text
    assert recomputed.usage.tokens_missed == 0  # the KV file was not asked for anything
    assert engine.stats(ANN).activation_misses == 0


# ------------------------------------------------------------------ what cannot be used


def test_damaged_adapter_falls_back_to_text(engine: MemoryOS, adapter: Callable[..., Adapter]) -> None:
    cat, move = stored(engine, CAT, MOVE)
    plain = ask(engine)
    cube_id = published(engine, adapter(1), cat)
    damage(engine)
    for text in (True, False):
        reply = ask(engine, text=text, reuse=False)
        assert (reply.text, reply.usage.prompt_tokens) == (plain.text, plain.usage.prompt_tokens)
        assert set(reply.tiers["plaintext"]) == {cat.id, move.id}
        assert "parametric" not in reply.tiers
        ((missed, reason),) = [(miss.cube_id, miss.reason) for miss in reply.misses]
        assert missed == cube_id
        assert "cannot be used" in reason
    with pytest.raises(AdapterRefused, match="cannot be used"):
        ask(engine, adapters=[cube_id])
    assert engine.adapter("default", cube_id).hits == 0
    published(engine, adapter(1), cat)  # writes the file anew
    assert ask(engine).tiers["parametric"] == (cube_id,)


# ------------------------------------------------------------------ forgetting


@pytest.mark.parametrize("change", ["forget", "update", "demote"])
def test_next_chat_uses_nothing_of_what_is_gone(engine: MemoryOS, adapter: Callable[..., Adapter], change: str) -> None:
    engine._jobs.stop()  # nothing is trained again
    cat, move = stored(engine, CAT, MOVE)
    trained = adapter(1)
    cube_id = published(engine, trained, cat)
    runtime = engine.models.serving().runtime
    assert ask(engine).tiers["parametric"] == (cube_id,)
    there = runtime.pool.misses
    assert ask(engine).tiers["parametric"] == (cube_id,)
    assert runtime.pool.misses == there
    if change == "forget":
        engine.forget("default", cat.id)
    elif change == "update":
        engine.update("default", cat.id, text=CAT.replace("Miso", "Tofu"))
    else:
        engine.demote("default", cube_id)
    reply = ask(engine)
    assert "parametric" not in reply.tiers
    assert reply.usage.tokens_shared == 0
    assert reply.text == alone(engine, *engine.list(ANN))[0]
    with pytest.raises(NotFound):
        ask(engine, adapters=[cube_id])
    assert runtime.pool.misses == there
    published(engine, trained, move)  # equal content under another cube
    assert "parametric" in ask(engine).tiers
    assert runtime.pool.misses == there + 1


def test_forgetting_drops_what_memory_holds_of_the_user_alone(engine: MemoryOS) -> None:
    notes = {scope: stored(engine, CAT, MOVE, scope=scope) for scope in (ANN, BOB, ELSEWHERE)}
    for scope in notes:
        ask(engine, scope=scope)
        assert ask(engine, scope=scope).usage.tokens_shared > 0
    engine.forget("default", notes[ANN][1].id)
    residents = engine.models.serving().runtime._scheduler.admission.residents
    assert not any(owner_of(ANN) in one.made_with for one in residents._there.values())
    assert ask(engine).usage.tokens_shared == 0
    for scope in (BOB, ELSEWHERE):
        assert ask(engine, scope=scope).usage.tokens_shared > 0


# ------------------------------------------------------------------ shared prompts


def test_equal_prompts_are_shared_unless_that_is_unwanted(engine: MemoryOS, adapter: Callable[..., Adapter]) -> None:
    (cat,) = stored(engine, CAT)
    for _ in range(2):  # the bare model, then with an adapter: nothing of the one is the other's
        first, second, third = ask(engine), ask(engine), ask(engine, reuse=False)
        tokens = first.usage.prompt_tokens
        assert (first.usage.tokens_shared, first.usage.tokens_recomputed) == (0, tokens)
        shared = second.usage.tokens_shared
        assert 0 < shared < tokens
        assert shared % 16 == 0
        assert second.usage.tokens_recomputed == tokens - shared
        assert (third.usage.tokens_shared, third.usage.tokens_recomputed) == (0, tokens)
        assert first.text == second.text == third.text
        published(engine, adapter(1), cat)


def test_tenants_and_users_of_equal_content_share_nothing(engine: MemoryOS, adapter: Callable[..., Adapter]) -> None:
    trained = adapter(1)
    for scope in (ANN, ELSEWHERE, BOB):
        (cat,) = stored(engine, CAT, scope=scope)
        published(engine, trained, cat, scope=scope)
        reply = ask(engine, scope=scope)
        assert reply.usage.tokens_shared == 0
        assert "parametric" in reply.tiers
        assert ask(engine, scope=scope).usage.tokens_shared > 0
