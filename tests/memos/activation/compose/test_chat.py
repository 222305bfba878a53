"""Chats whose prompts begin with the caches of several cubes, on layers of the bundled model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from memos.config import Settings
from memos.cube import MemCube, Scope
from memos.doctor.examination import examine
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import CompositionRefused
from memos.llm.messages import ChatReply
from memos.runtime.host import ModelHost
from memos.store import compositions
from memos.store.compositions import Composition
from memos.store.jobs import FINAL, JobState

pytestmark = pytest.mark.timeout(300)  # the first test loads the model

ANN, BOB = Scope(user_id="ann"), Scope(user_id="bob")
FACTS = (
    "Ann adopted a grey cat called Miso in March and Miso sleeps on the radiator all day",
    "The cat Miso is afraid of the vacuum cleaner and hides behind the books of Ann for hours",
    "Ann moved from Rome to Oslo because her new job at the harbour museum began in May",
    "Ann and the cat Miso live on the fourth floor with a view of the harbour and the museum",
    "Tom, the brother of Ann, is allergic to peanuts and to the cat Miso but visits her anyway",
    "Ann is learning Norwegian with a teacher called Ingrid every Tuesday at the library",
)
QUESTION = "What does Ann's cat Miso do all day?"

Open = Callable[..., MemoryOS]


@pytest.fixture
def opened(data_folder: Path, embedder: Embedder, shallow_models: ModelHost) -> Iterator[Open]:
    engines: list[MemoryOS] = []

    def open_(refusal: str | None = None, *, checked: bool = True, **settings: Any) -> MemoryOS:
        given = {"compose": "auto", "bundle_min_tokens": 16, **settings}
        engine = MemoryOS(Settings(home=data_folder, **given), embedder, shallow_models)
        engines.append(engine)
        if checked:
            serving = shallow_models.serving()
            row = Composition(serving.fingerprint, "shallow", 0.01, 0.99, refusal, None, 1)
            with engine.database.write() as connection:
                compositions.put(connection, row)
        return engine

    yield open_
    for engine in engines:
        engine.close()


def promoted(engine: MemoryOS, notes: Sequence[MemCube], codec: str | None = None) -> str:
    tenant = notes[0].scope.tenant
    job = engine.promote(tenant, [note.id for note in notes], to="activation", codec=codec)
    while (job := engine.job(tenant, job.id)).state not in FINAL:
        threading.Event().wait(0.01)
    assert job.state is JobState.DONE, job.error
    assert job.result is not None
    return str(job.result["cube_id"])


def bundles(engine: MemoryOS, scope: Scope = ANN) -> list[str]:
    """Store the facts and promote them two by two; return the cubes."""
    notes = engine.store_many(scope, [{"text": fact, "event_time": "2025-05-01"} for fact in FACTS])
    return [promoted(engine, notes[first : first + 2]) for first in range(0, len(notes), 2)]


def ask(engine: MemoryOS, scope: Scope = ANN, **options: Any) -> ChatReply:
    given = {"max_tokens": 5, "top_k": 6, **options}
    return engine.chat(scope, [{"role": "user", "content": QUESTION}], **given)


def test_one_prompt_is_served_from_several_cubes(opened: Open) -> None:
    engine = opened()
    cubes = bundles(engine)
    reply = ask(engine, compose="blend", ratio=0.2)
    usage = reply.usage
    assert (usage.mode, usage.ratio) == ("blend", 0.2)
    assert set(reply.tiers["activation"]) == set(cubes) == {one.cube_id for one in usage.bundles}
    assert usage.bundles[0].recomputed == 0
    anew = sum(one.recomputed for one in usage.bundles)
    assert 0 < anew <= 0.2 * sum(one.reused + one.recomputed for one in usage.bundles)
    assert usage.tokens_reused + usage.tokens_shared + usage.tokens_recomputed == usage.prompt_tokens
    assert usage.tokens_recomputed >= anew
    assert (reply.misses, usage.tokens_missed) == ((), 0)
    statistics = engine.stats(ANN)
    assert (statistics.activation_hits, statistics.tokens_reused) == (len(cubes), usage.tokens_reused)


def test_everything_recomputed_answers_as_plain_text_does(opened: Open) -> None:
    engine = opened()
    bundles(engine)
    composed, plain = ask(engine, compose="blend", ratio=1.0), ask(engine, compose="blend", ratio=1.0, reuse=False)
    assert composed.text == plain.text != ""
    assert composed.usage.prompt_tokens == plain.usage.prompt_tokens == plain.usage.tokens_recomputed
    assert plain.usage.bundles == ()


def test_memories_without_a_cube_follow_as_text(opened: Open) -> None:
    engine = opened()
    cubes = bundles(engine)
    (beside,) = engine.store_many(ANN, [{"text": "The cat Miso of Ann broke a vase of her aunt all the same"}])
    reply = ask(engine, compose="concat", top_k=7)
    assert set(reply.tiers["activation"]) == set(cubes)
    assert reply.tiers["plaintext"] == (beside.id,)


def test_cube_without_a_row_for_every_token_is_not_moved(opened: Open) -> None:
    engine = opened()
    notes = engine.store_many(ANN, [{"text": fact, "event_time": "2025-05-01"} for fact in FACTS])
    pruned = promoted(engine, notes[:2], "keydiff:0.5")
    whole = {promoted(engine, notes[first : first + 2]) for first in (2, 4)}
    reply = ask(engine, compose="concat")
    assert set(reply.tiers["activation"]) == whole
    assert pruned not in {miss.cube_id for miss in reply.misses}
    assert set(reply.tiers["plaintext"]) == {note.id for note in notes[:2]}


def test_planner_serves_one_covering_cube_exactly(opened: Open) -> None:
    engine = opened()
    notes = engine.store_many(ANN, [{"text": fact} for fact in FACTS])
    cube = promoted(engine, notes)
    reply = ask(engine)
    assert (reply.usage.mode, reply.tiers["activation"]) == ("prefix", (cube,))


@pytest.mark.parametrize("how", ["refused", "unchecked", "switched off", "asked for"])
def test_never_more_than_one_cube_where_blending_is_not_allowed(opened: Open, how: str) -> None:
    engine = opened(
        "its keys are garbled" if how == "refused" else None,
        checked=how != "unchecked",
        compose="off" if how in ("switched off", "unchecked") else "auto",
    )
    bundles(engine)
    reply = ask(engine, compose="prefix" if how == "asked for" else "blend")
    assert len(reply.tiers.get("activation", ())) <= 1
    assert reply.usage.mode in (None, "prefix")


def test_doctor_shows_why_a_model_is_refused(opened: Open, embedder: Embedder) -> None:
    engine = opened("its keys are garbled")
    report = examine(engine.settings, engine.database, None, embedder=embedder)
    (finding,) = [one for one in report.findings if one.name == "composing"]
    assert "its keys are garbled" in finding.message
    assert finding.status.value == "warning"


def test_lost_file_is_a_miss_and_the_text_answers(opened: Open) -> None:
    engine = opened()
    cubes = bundles(engine)
    plain = ask(engine, compose="blend", reuse=False)
    path = sorted((engine.settings.home / "kv").rglob("*.safetensors"))[0]
    path.unlink()
    reply = ask(engine, compose="blend")
    assert [miss.cube_id in cubes for miss in reply.misses] == [True]
    assert (reply.text, reply.usage.mode, reply.usage.tokens_reused) == (plain.text, None, 0)


def test_nobody_is_served_the_cubes_of_another(opened: Open) -> None:
    engine = opened()
    of_ann, of_bob = set(bundles(engine)), set(bundles(engine, BOB))
    for scope, own in ((ANN, of_ann), (BOB, of_bob)):
        reply = ask(engine, scope, compose="concat")
        assert set(reply.tiers["activation"]) == own
    assert not of_ann & of_bob


def test_user_chooses_how_prompts_are_composed(opened: Open) -> None:
    engine = opened()
    cubes = {scope.user_id: set(bundles(engine, scope)) for scope in (ANN, BOB)}
    engine.set_kv_settings(ANN, compose="blend", ratio=0.25)
    engine.set_kv_settings(BOB, compose="prefix")
    reply = ask(engine)
    assert (reply.usage.mode, reply.usage.ratio) == ("blend", 0.25)
    assert set(reply.tiers["activation"]) == cubes["ann"]
    asked = ask(engine, compose="concat", ratio=0.0)
    assert (asked.usage.mode, asked.usage.ratio, set(asked.tiers["activation"])) == ("concat", 0.0, cubes["ann"])
    alone = ask(engine, compose="prefix")
    assert alone.usage.mode in (None, "prefix")
    of_bob = ask(engine, BOB)
    assert of_bob.usage.mode in (None, "prefix")
    assert set(of_bob.tiers.get("activation", ())) < cubes["bob"]
    assert set(ask(engine, BOB, compose="concat").tiers["activation"]) == cubes["bob"]


@pytest.mark.parametrize("forbidden", [{"compose": "off"}, {"refusal": "its keys are garbled"}])
def test_no_choice_of_a_user_composes_what_is_forbidden(opened: Open, forbidden: dict[str, Any]) -> None:
    engine = opened(**forbidden)
    bundles(engine)
    engine.set_kv_settings(ANN, compose="concat")
    reply = ask(engine)
    assert len(reply.tiers.get("activation", ())) <= 1
    assert reply.usage.mode in (None, "prefix")


@pytest.mark.parametrize("chosen", [True, False])
def test_composed_prompts_hold_nothing_of_others(opened: Open, chosen: bool) -> None:
    """Users of one tenant, of another one by the same name, and one whose chain drops entries: all say the same."""
    engine = opened()
    everybody = (ANN, BOB, Scope(tenant="other", user_id="ann"))
    engine.set_kv_settings(BOB, codec="int8")
    own = {scope: set(bundles(engine, scope)) for scope in everybody}
    for mode in ("concat", "blend", "ape", "craft", "auto"):
        for scope in everybody if chosen else ():
            engine.set_kv_settings(scope, compose=mode, ratio=0.1)
        for scope in everybody:
            reply = ask(engine, scope) if chosen else ask(engine, scope, compose=mode)
            used = set(reply.tiers.get("activation", ()))
            assert used <= own[scope]
            assert mode == "auto" or used == own[scope]
            assert {one.cube_id for one in reply.usage.bundles} == used
            assert set(reply.tiers["plaintext"]) <= {note.id for note in engine.list(scope)}
    assert {file.codec for file in engine.kv_files(BOB)} == {"int8"}
    assert {file.codec for file in engine.kv_files(ANN)} == {"raw"}


def test_forgotten_memory_takes_its_cube_out(opened: Open) -> None:
    engine = opened()
    notes = engine.store_many(ANN, [{"text": fact} for fact in FACTS])
    gone, stays, also = (promoted(engine, notes[first : first + 2]) for first in (0, 2, 4))
    engine.forget("default", notes[0].id)
    reply = ask(engine, compose="concat")
    assert set(reply.tiers["activation"]) == {stays, also}
    assert gone not in reply.tiers["activation"]


# ------------------------------------------------------------ variants


def recomputed(reply: ChatReply) -> int:
    return sum(one.recomputed for one in reply.usage.bundles)


def test_same_memories_again_are_served_as_they_stood(opened: Open) -> None:
    engine = opened()
    bundles(engine)
    first, second = (ask(engine, compose="craft", ratio=0.4) for _ in range(2))
    assert first.usage.mode == second.usage.mode == "craft"
    assert recomputed(first) == recomputed(ask(engine, compose="blend", ratio=0.4)) > recomputed(second)
    assert second.usage.tokens_reused > first.usage.tokens_reused


@pytest.mark.parametrize("change", ["forget", "update", "demote"])
def test_change_of_an_earlier_bundle_takes_what_was_computed_behind_it_along(opened: Open, change: str) -> None:
    engine = opened()
    notes = engine.store_many(ANN, [{"text": fact, "event_time": "2025-05-01"} for fact in FACTS])
    cubes = [promoted(engine, notes[first : first + 2]) for first in range(0, len(notes), 2)]
    plain = ask(engine, compose="concat")
    files = engine.activation.usage()[1]
    ask(engine, compose="craft", ratio=0.4)
    assert engine.activation.usage()[1] > files
    first = plain.tiers["activation"][0]
    of_first = notes[2 * cubes.index(first)]
    if change == "forget":
        engine.forget("default", of_first.id)
    elif change == "update":
        engine.update("default", of_first.id, text="Ann adopted a black cat called Tosca in April")
    else:
        engine.demote("default", first)
    assert engine.activation.usage()[1] < files  # all variants stood behind it, and its own cache is gone too
    crafted, blended = (ask(engine, compose=mode, ratio=0.4) for mode in ("craft", "blend"))
    assert first not in crafted.tiers["activation"]
    assert crafted.usage.bundles == blended.usage.bundles
    assert crafted.text == blended.text


def test_variant_behind_an_expired_memory_is_not_served(opened: Open) -> None:
    engine = opened()
    notes = engine.store_many(ANN, [{"text": fact, "event_time": "2025-05-01"} for fact in FACTS])
    cubes = [promoted(engine, notes[first : first + 2]) for first in range(0, len(notes), 2)]
    first = ask(engine, compose="craft", ratio=0.4).tiers["activation"][0]
    held = engine.activation.usage()[1]
    with engine.database.write() as connection:  # by the clock, or in another process: nobody tells this one
        of_first = notes[2 * cubes.index(first)].id
        connection.exec_driver_sql("UPDATE cubes SET expires_at = 1 WHERE id = ?", (of_first,))
    crafted, blended = (ask(engine, compose=mode, ratio=0.4) for mode in ("craft", "blend"))
    assert first not in crafted.tiers["activation"]
    assert crafted.usage.bundles == blended.usage.bundles
    assert engine.activation.usage()[1] >= held


@pytest.mark.parametrize("apart", range(3))
def test_variant_behind_memories_of_another_agent_is_not_served(opened: Open, apart: int) -> None:
    engine, mine = opened(), Scope(user_id="ann", agent_id="mine")
    cubes = []
    for pair in range(3):
        scope = Scope(user_id="ann", agent_id="other") if pair == apart else mine
        facts = FACTS[2 * pair : 2 * pair + 2]
        notes = engine.store_many(scope, [{"text": fact, "event_time": "2025-05-01"} for fact in facts])
        cubes.append(promoted(engine, notes))
    together = ask(engine, compose="craft", ratio=0.4)
    crafted, blended = (ask(engine, mine, compose=mode, ratio=0.4) for mode in ("craft", "blend"))
    assert cubes[apart] not in crafted.tiers["activation"]
    if together.tiers["activation"].index(cubes[apart]) < 2:
        assert crafted.usage.bundles == blended.usage.bundles
    else:  # what stood before it serves on
        assert recomputed(crafted) < recomputed(blended)


def test_variants_are_of_one_user(opened: Open) -> None:
    engine = opened()
    for scope in (ANN, BOB):
        bundles(engine, scope)
    of_ann = [recomputed(ask(engine, compose="craft", ratio=0.4)) for _ in range(2)]
    of_bob = [recomputed(ask(engine, BOB, compose="craft", ratio=0.4)) for _ in range(2)]
    assert of_ann == of_bob
    assert of_ann[0] > of_ann[1]


@pytest.mark.parametrize("options", [{"compose": "fuse"}, {"ratio": 1.5}, {"ratio": -1}])
def test_bad_options_are_refused(opened: Open, options: dict[str, Any]) -> None:
    with pytest.raises(CompositionRefused):
        ask(opened(), **options)
