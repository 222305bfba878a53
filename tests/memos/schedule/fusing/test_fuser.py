"""Memories become one and several again: nothing is lost, nothing that was forgotten stays, users are kept apart."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from memos.clock import DAY_US, now_us
from memos.config import Settings
from memos.cube import FUSION, Kind, LinkType, MemCube, Scope, State
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import Conflict, LegalHold, ModelUnavailable, NotFound, QuotaReached
from memos.llm.completion import Completion, Messages, Spent
from memos.schedule.moving.move import Move
from memos.store.fusions import FusionRepository
from memos.store.jobs import FINAL, FUSE
from memos.store.links import LinkRepository, link_row

ANN, BOB = Scope(user_id="ann"), Scope(user_id="bob")
BOAT = "The old boat that lies all winter in the harbour of Tromsø is called Freya."
TOLD = (f"{BOAT} Its sail is crimson.", f"{BOAT} It was built by Halvorsen.", f"{BOAT} Its anchor is rusty.")
GARDEN = "Four old apple trees grow on the hill behind the yellow house of the doctor."


def store(engine: MemoryOS, *texts: str, scope: Scope = ANN, **more: Any) -> list[MemCube]:
    return engine.store_many(scope, [{"text": text, **more} for text in texts])


def settled(engine: MemoryOS, scope: Scope = ANN) -> None:
    """Wait until no job of a user is left to be run."""
    while any(job.state not in FINAL for job in engine.jobs(scope)):
        time.sleep(0.005)


def fused(engine: MemoryOS, scope: Scope = ANN) -> list[Move]:
    """Fuse what belongs together; return the fusions on record."""
    ids = [move.id for move in engine.fuse(scope, dry_run=False)]
    settled(engine, scope)
    return [move for move in engine.moves(scope) if move.id in ids]


def fuse_one(engine: MemoryOS, scope: Scope = ANN) -> str:
    (move,) = fused(engine, scope)
    return str(move.cube_id)


def recalled(engine: MemoryOS, query: str, scope: Scope = ANN, **more: Any) -> list[str]:
    return [hit.text for hit in engine.recall(scope, query, **more).hits]


def states(engine: MemoryOS, cubes: Sequence[MemCube]) -> list[State]:
    return [engine.get("default", cube.id).state for cube in cubes]


# ------------------------------------------------------------ fused


def test_repeated_memories_become_one_that_says_it_all(engine: MemoryOS) -> None:
    told = store(engine, *TOLD)
    store(engine, GARDEN)
    (planned,) = engine.fuse(ANN)
    assert (planned.action, planned.tier, planned.id) == ("fuse", Kind.PLAINTEXT, None)
    assert [source.cube_id for source in planned.sources] == [cube.id for cube in told]
    assert states(engine, told) == [State.GENERATED] * 3  # it is a plan
    assert "Freya" not in planned.reason
    (move,) = fused(engine)
    made = engine.get("default", str(move.cube_id))
    assert (made.state, made.provenance.source, made.provenance.scribe) == (State.MERGED, FUSION, "offline")
    assert made.provenance.parents == planned.sources
    assert states(engine, told) == [State.ARCHIVED] * 3
    assert [cube.text for cube in engine.expand("default", made.id)] == list(TOLD)
    assert made.text is not None
    assert made.text.count("Freya") == 1
    assert {"crimson", "Halvorsen", "rusty"} <= set(re.findall(r"\w+", made.text))
    assert len(made.text) < sum(map(len, TOLD))
    assert [cube.text for cube in engine.list(ANN)] == [GARDEN, made.text]
    (hit,) = [hit for hit in engine.recall(ANN, "Freya crimson", explain=True).hits if "crimson" in hit.text]
    assert hit.id == made.id
    assert hit.why is not None
    assert hit.why["fused"] == [cube.id for cube in told]


def test_fusing_again_changes_nothing(engine: MemoryOS) -> None:
    store(engine, *TOLD)
    first = fused(engine)
    assert len(first) == 1
    assert fused(engine) == []
    job = engine.jobs(ANN)[0]
    again = engine._fuser.run(ANN, {"ids": [one.cube_id for one in first[0].sources], "reason": ""}, lambda _: None)
    assert (job.task, again["made"]) == (FUSE, False)
    assert engine.moves(ANN) == first


def test_what_is_under_way_is_not_planned_again(engine: MemoryOS) -> None:
    engine._jobs.stop()
    store(engine, *TOLD)
    assert len(engine.fuse(ANN, dry_run=False)) == 1
    assert engine.fuse(ANN) == []


def test_lines_are_dated_where_days_differ(engine: MemoryOS) -> None:
    for day, text in enumerate(TOLD[:2], 1):
        store(engine, text, event_time=f"2025-05-0{day}")
    made = engine.get("default", fuse_one(engine))
    assert made.text is not None
    assert [line[:12] for line in made.text.splitlines()] == ["2025-05-01: ", "2025-05-02: "]
    assert made.time.event_time == datetime(2025, 5, 2, tzinfo=UTC)


def test_speaker_session_and_metadata_stay(engine: MemoryOS) -> None:
    own: dict[str, Any] = {"agent_id": "scout", "run_id": "r1", "metadata": {"topic": "boats"}}
    store(engine, *(f"Ann: {text}" for text in TOLD), **own)
    made = engine.get("default", fuse_one(engine))
    assert made.provenance.author == "Ann"
    assert made.text is not None
    assert made.text.startswith("Ann: ")
    assert made.text.count("Ann:") == 1
    narrowed = Scope(user_id="ann", agent_id="scout", run_id="r1")
    assert recalled(engine, "Freya", narrowed, filters={"metadata.topic": "boats"}) == [made.text]


@pytest.mark.parametrize(
    "other", [{"agent_id": "b"}, {"run_id": "b"}, {"metadata": {"topic": "b"}}, {"expires_at": "2999-01-01"}]
)
def test_what_recall_can_be_narrowed_by_keeps_memories_apart(engine: MemoryOS, other: dict[str, Any]) -> None:
    store(engine, TOLD[0])
    store(engine, TOLD[1], **other)
    assert engine.fuse(ANN) == []


@pytest.mark.parametrize("column", ["pinned", "frozen"])
def test_what_is_pinned_or_frozen_stays(engine: MemoryOS, column: str) -> None:
    one, _ = store(engine, *TOLD[:2])
    with engine.database.write() as connection:
        connection.exec_driver_sql(f"UPDATE cubes SET {column} = 1 WHERE id = '{one.id}'")
    assert engine.fuse(ANN) == []


@pytest.mark.parametrize("state", [State.ARCHIVED, State.QUARANTINED, State.EXPIRED])
def test_what_was_put_away_stays_so(engine: MemoryOS, state: State) -> None:
    one, _ = store(engine, *TOLD[:2])
    engine.move("default", one.id, state)
    assert engine.fuse(ANN) == []


def test_secrets_are_not_spread(engine: MemoryOS) -> None:
    store(engine, "The password of the boat in the harbour is: swordfish", "The password of the boat is: swordfish")
    assert engine.fuse(ANN) == []


def test_users_are_worlds_apart(engine: MemoryOS) -> None:
    mine, theirs = store(engine, *TOLD[:2]), store(engine, *TOLD[:2], scope=BOB)
    move = fused(engine)[0]
    assert {one.cube_id for one in move.sources} == {cube.id for cube in mine}
    assert states(engine, theirs) == [State.GENERATED] * 2
    for whose in (BOB, Scope(tenant="other", user_id="ann")):
        with pytest.raises(NotFound):
            engine.undo(whose, str(move.id))
    with pytest.raises(NotFound):
        engine.expand("default", str(move.cube_id), user_id="bob")
    with pytest.raises(NotFound):
        engine.expand("other", str(move.cube_id))


def test_full_quota_refuses_and_leaves_all_as_it_was(data_folder: Path, embedder: Embedder) -> None:
    with MemoryOS(Settings(home=data_folder, quota_memories=2), embedder) as engine:
        told = store(engine, *TOLD[:2])
        assert fused(engine) == []
        assert "may keep 2 memories" in str(engine.jobs(ANN)[0].error)
        assert states(engine, told) == [State.GENERATED] * 2
        with pytest.raises(QuotaReached):
            store(engine, "x")


def test_files_made_of_them_go_and_memories_in_adapters_stay(engine: MemoryOS) -> None:
    one, other = store(engine, *TOLD[:2])
    with engine.database.write() as connection:
        connection.exec_driver_sql(
            "INSERT INTO adapters (cube_id, namespace_id, digest, base, payload, series, version, state, rank, bytes,"
            f" tokens, provenance, created_at) VALUES ('{other.id}', 1, '', '', 'lora', '', 1, 'published', 1, 0, 0,"
            " '{}', 0)"
        )
        connection.exec_driver_sql(f"INSERT INTO parents VALUES ('{other.id}', '{one.id}', 1, 1, 0)")
    assert engine.fuse(ANN) == []


def test_hot_and_linked_ones_are_fused(data_folder: Path, embedder: Embedder) -> None:
    with MemoryOS(Settings(home=data_folder, notes="offline"), embedder) as engine:
        texts = (
            "The boat Freya in the harbour has a crimson sail.",
            "The boat Freya in the harbour leaks at the stern.",
        )
        store(engine, *texts)
        settled(engine)
        assert engine.fuse(ANN) == []  # linked, and nobody asks
        for _ in range(3):
            engine.recall(ANN, "boat Freya")
        (move,) = fused(engine)
        assert "used together" in move.reason
        made = engine.get("default", str(move.cube_id))
        assert made.text == " ".join(texts) or made.text == "\n".join(texts)
        assert made.behaviour.heat >= 1


def test_links_to_others_are_inherited(engine: MemoryOS) -> None:
    (one, two), (other,) = store(engine, *TOLD[:2]), store(engine, GARDEN)
    with engine.database.write() as connection:
        rows = [
            link_row((one.id, 1), (other.id, 1), LinkType.ENTITY, 0.7, "offline", 0),
            link_row((other.id, 1), (two.id, 1), LinkType.CAUSAL, 0.6, "offline", 0),
            link_row((one.id, 1), (two.id, 1), LinkType.SEMANTIC, 0.9, "offline", 0),
        ]
        LinkRepository(connection, 1).add(rows)
    made = fuse_one(engine)
    (link,) = engine.links("default", made)  # the stronger of two to the same memory
    assert (link.target_id, link.type, link.score) == (other.id, "entity", 0.7)
    assert len(engine.links("default", one.id)) == 2  # and they keep theirs


# ------------------------------------------------------------ contradictions


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("I live in Rome with my brother now.", "I live in Oslo with my brother now."),
        ("The call with the landlord is on 5 May.", "The call with the landlord is on 6 May."),
        ("My team has 12 people in it now.", "My team has 14 people in it now."),
        ("I do eat fish on most days.", "I do not eat fish on most days."),
    ],
)
def test_contradictions_stay_apart(engine: MemoryOS, one: str, other: str) -> None:
    store(engine, one, other)
    assert engine.fuse(ANN) == []


def test_new_fact_does_not_close_all_that_was_fused(data_folder: Path, embedder: Embedder) -> None:
    with MemoryOS(Settings(home=data_folder, notes="offline"), embedder) as engine:
        store(engine, "I live in Rome with a cat called Tom.", "I live in Rome with a cat called Tom and a dog, Rex.")
        settled(engine)
        made = fuse_one(engine)
        store(engine, "I moved from Rome to Oslo.")
        settled(engine)
        assert engine.get("default", made).time.valid_to is None
        assert any("Rex" in text for text in recalled(engine, "dog Rex"))


# ------------------------------------------------------------ taken back


def test_fusion_is_taken_back_and_forth(engine: MemoryOS) -> None:
    told = store(engine, *TOLD)
    (move,) = fused(engine)
    before = engine.stats(ANN)
    (back,) = engine.undo(ANN, str(move.id))
    assert (back.action, back.undoes, back.cube_id) == ("split", move.id, move.cube_id)
    assert states(engine, told) == [State.ACTIVATED] * 3
    with pytest.raises(NotFound):
        engine.get("default", str(move.cube_id))
    assert set(recalled(engine, "Freya")) == set(TOLD)
    with pytest.raises(Conflict, match="taken back before"):
        engine.undo(ANN, str(move.id))
    (forth,) = engine.undo(ANN, str(back.id))
    settled(engine)
    assert [(one.id, one.action, one.undoes) for one in engine.moves(ANN)] == [
        (move.id, "fuse", None),
        (back.id, "split", move.id),
        (forth.id, "fuse", back.id),
    ]
    assert engine.stats(ANN) == before


def test_as_of_recalls_see_what_was_there(engine: MemoryOS) -> None:
    store(engine, *TOLD)
    before = datetime.now(UTC)
    made = fuse_one(engine)
    text = engine.get("default", made).text
    assert set(recalled(engine, "Freya", as_of=before)) == set(TOLD)
    assert recalled(engine, "Freya", as_of=datetime.now(UTC)) == [text]
    assert recalled(engine, "Freya", as_of=before - timedelta(days=1)) == []
    engine.forget("default", engine.expand("default", made)[0].id)
    settled(engine)
    assert set(recalled(engine, "Freya", as_of=before)) == set(TOLD[1:])


# ------------------------------------------------------------ forgotten, changed, held


def files_with(folder: Path, word: str) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]


def test_forgotten_source_leaves_no_word_and_the_rest_is_fused_again(engine: MemoryOS, data_folder: Path) -> None:
    told = store(engine, *TOLD)
    (move,) = fused(engine)
    receipt = engine.forget("default", told[1].id)
    assert set(receipt.cube_ids) == {told[1].id, move.cube_id}
    settled(engine)
    again = engine.moves(ANN)[-1]
    assert [one.cube_id for one in again.sources] == [told[0].id, told[2].id]
    assert "fused again" in again.reason
    (text,) = recalled(engine, "boat Freya Halvorsen")
    assert {"crimson", "rusty"} <= set(re.findall(r"\w+", text))
    assert "Halvorsen" not in repr([engine.list(ANN), engine.moves(ANN), engine.jobs(ANN), text])
    assert engine.verify_receipt("default", receipt.model_dump(mode="json")).valid
    assert files_with(data_folder, "Halvorsen") == []
    with pytest.raises(Conflict, match="is gone"):
        engine.undo(ANN, str(move.id))


def test_one_source_that_is_left_speaks_for_itself(engine: MemoryOS) -> None:
    told = store(engine, *TOLD[:2])
    fuse_one(engine)
    engine.forget("default", told[0].id)
    settled(engine)
    assert states(engine, told[1:]) == [State.ACTIVATED]
    assert recalled(engine, "Freya") == [TOLD[1]]


def test_forgetting_what_was_fused_forgets_its_sources(engine: MemoryOS) -> None:
    told = store(engine, *TOLD)
    made = fuse_one(engine)
    assert set(engine.forget("default", made).cube_ids) == {made, *(cube.id for cube in told)}
    assert engine.list(ANN) == []


def test_source_that_is_changed_is_in_what_is_fused_again(engine: MemoryOS) -> None:
    told = store(engine, *TOLD)
    made = fuse_one(engine)
    changed = engine.update("default", told[1].id, text=f"{BOAT} It was built by Larsen.")
    assert changed.version == 2
    settled(engine)
    with pytest.raises(NotFound):
        engine.get("default", made)
    (text,) = recalled(engine, "Freya")
    assert {"crimson", "Larsen", "rusty"} <= set(re.findall(r"\w+", text))
    assert "Halvorsen" not in text
    engine.rollback("default", told[1].id, 1)
    settled(engine)
    (text,) = recalled(engine, "Freya")
    assert "Halvorsen" in text


def test_source_that_is_quarantined_is_not_told_in_other_words(engine: MemoryOS) -> None:
    told = store(engine, *TOLD)
    fuse_one(engine)
    engine.move("default", told[1].id, State.QUARANTINED)
    settled(engine)
    (text,) = recalled(engine, "Freya")
    assert "Halvorsen" not in text


def test_what_was_fused_is_not_edited(engine: MemoryOS) -> None:
    store(engine, *TOLD)
    made = fuse_one(engine)
    with pytest.raises(Conflict, match="was fused from others"):
        engine.update("default", made, text="something else")


def test_held_memories_are_not_fused_and_held_fusions_not_taken_back(engine: MemoryOS) -> None:
    told = store(engine, *TOLD[:2])
    hold = engine.hold("default", told[0].id)
    assert engine.fuse(ANN) == []
    engine.release("default", hold.id)
    hold = engine.hold("default", user_id="ann")
    assert engine.fuse(ANN) == []
    engine.release("default", hold.id)
    (move,) = fused(engine)
    engine.hold("default", str(move.cube_id))
    for refused in (
        lambda: engine.undo(ANN, str(move.id)),
        lambda: engine.forget("default", told[0].id),
        lambda: engine.update("default", told[0].id, text="x"),
    ):
        with pytest.raises(LegalHold):
            refused()
    assert states(engine, told) == [State.ARCHIVED] * 2


def test_time_takes_what_was_fused_with_its_first_source(engine: MemoryOS, monkeypatch: pytest.MonkeyPatch) -> None:
    told = store(engine, *TOLD)
    with engine.database.write() as connection:
        connection.exec_driver_sql(f"UPDATE cubes SET created_at = created_at - {9 * DAY_US} WHERE id = '{told[0].id}'")
    fuse_one(engine)
    engine.retain(ANN, 10)
    monkeypatch.setattr("memos.schedule.expiry.now_us", lambda: now_us() + 2 * DAY_US)
    engine.expire()
    settled(engine)
    (text,) = recalled(engine, "Freya")
    assert "crimson" not in text
    assert "Halvorsen" in text


# ------------------------------------------------------------ with a model


class Summariser:
    """Answers with a fixed text."""

    name = "test-model"

    def __init__(self, text: str) -> None:
        self.text = text
        self.asked: list[Messages] = []

    def complete(self, messages: Messages, schema: Mapping[str, Any]) -> Completion:
        self.asked.append(messages)
        if not self.text:
            raise ModelUnavailable("nobody is there")
        return Completion(f'{{"text": "{self.text}"}}', Spent(calls=1))

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        ("The boat called Freya in the harbour of Tromsø: crimson sail, built by Halvorsen.", None),
        ("The boat called Freya: crimson sail, built by Halvorsen.", "leaves out 1"),
        ("The boat called Freya in Tromsø harbour: 3 crimson sails, built by Halvorsen.", "adds 1"),
        ("Freya, Tromsø, Halvorsen, The Its It.", "leaves out too much"),
        ("The boat called Freya in the harbour of Tromsø: no crimson sail, built by Halvorsen.", "denies"),
        ("The boat called Freya in the harbour of Tromsø: crimson sail, built by Halvorsen. " * 3, "longer"),
        ("", "nobody is there"),
    ],
)
def test_summary_of_a_model_is_taken_if_it_keeps_everything(engine: MemoryOS, answer: str, remark: str | None) -> None:
    engine._fuser._model = Summariser(answer)
    store(engine, *TOLD[:2])
    made = engine.get("default", fuse_one(engine))
    if remark is None:
        assert (made.text, made.provenance.scribe, made.provenance.remark) == (answer, "test-model", None)
    else:
        assert made.provenance.scribe == "offline"
        assert remark in str(made.provenance.remark)
        assert made.text is not None
        assert "crimson" in made.text


# ------------------------------------------------------------ at once, and by itself


def test_many_at_once_fuse_each_cluster_once(engine: MemoryOS) -> None:
    store(engine, *TOLD)
    store(engine, *(f"{GARDEN} {more}" for more in ("They bloom in May.", "They are old.")))
    plans = engine.fuse(ANN)
    payloads = [{"ids": [one.cube_id for one in move.sources], "reason": move.reason} for move in plans] * 4
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda payload: engine._fuser.run(ANN, payload, lambda _: None), payloads))
    assert sum(one["made"] for one in made) == len(plans) == 2
    assert len(engine.list(ANN)) == 2


def test_by_itself_where_plans_are_wanted(
    data_folder: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memos.engine.UPKEEP_S", 0.01)
    with MemoryOS(Settings(home=data_folder, plan_hours=1e-6), embedder) as engine:
        store(engine, *TOLD)
        while not engine.moves(ANN):
            time.sleep(0.01)
        assert [move.action for move in engine.moves(ANN)] == ["fuse"]


def test_change_between_reading_and_writing_is_seen(engine: MemoryOS, monkeypatch: pytest.MonkeyPatch) -> None:
    told = store(engine, *TOLD)
    tell: Callable[..., Any] = engine._fuser._fused

    def late(*given: Any) -> Any:
        monkeypatch.setattr(engine._fuser, "_fused", tell)
        engine.forget("default", told[0].id)
        return tell(*given)

    monkeypatch.setattr(engine._fuser, "_fused", late)
    made = fuse_one(engine)
    assert [cube.text for cube in engine.expand("default", made)] == list(TOLD[1:])
    assert "crimson" not in repr(engine.list(ANN))


def test_crash_in_the_middle_leaves_all_as_it_was(engine: MemoryOS, monkeypatch: pytest.MonkeyPatch) -> None:
    told = store(engine, *TOLD)
    before = engine.stats(ANN)

    def crash(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("memos.store.moves.MoveRepository.add", crash)
    payload = {"ids": [cube.id for cube in told], "reason": ""}
    with pytest.raises(KeyboardInterrupt):
        engine._fuser.run(ANN, payload, lambda _: None)
    assert engine.stats(ANN) == before
    assert states(engine, told) == [State.GENERATED] * 3
    with engine.database.read() as connection:
        assert FusionRepository(connection, 1).over(told[0].id) == []
