"""What a recall returns, as an agent sees it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memos import errors
from memos.clock import now_us
from memos.config import Settings
from memos.cube import Scope, State
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.plaintext.graph import LINK
from memos.store import namespaces
from memos.store.cubes import CubeRepository
from memos.store.schema import links
from memos_sdk import Memory
from memos_sdk.errors import NotFound

FILLER = [
    "The weather was grey for the whole week",
    "Somebody left an umbrella in the hall",
    "Taxes are due at the end of the quarter",
    "The printer ran out of yellow ink again",
    "A new bakery opened across the street",
    "The train to the coast was late",
    "Lunch was lentil soup with bread",
    "The meeting moved to another room",
]


def texts(found: Any) -> list[str]:
    return [hit.text for hit in found.hits]


# ---------------------------------------------------------------- what is seen at once


def test_own_writes_are_seen(memory: Memory) -> None:
    for number in range(30):
        cube = memory.store(f"the secret word {number} is banana{number}")
        assert memory.recall(f"banana{number}", top_k=1).hits[0].id == cube.id


@pytest.mark.parametrize("index_threshold", [1, 20])
def test_own_writes_are_seen_with_an_index(data_folder: Any, embedder: Embedder, index_threshold: int) -> None:
    """The same with a vector index that follows in the background: writes, changes and deletions."""
    with MemoryOS(Settings(home=data_folder, index_threshold=index_threshold), embedder) as engine:
        for number in range(30):
            text = f"the secret word {number} is banana{number}"
            cube = engine.store_many(Scope(), [{"text": text}])[0]
            assert engine.recall(Scope(), f"banana{number}", top_k=1).hits[0].id == cube.id
            if number % 3 == 0:
                engine.update("default", cube.id, text=f"now it is cherry{number}")
                assert engine.recall(Scope(), f"cherry{number}", top_k=1).hits[0].id == cube.id
            if number % 5 == 0:
                engine.forget("default", cube.id)
                found = engine.recall(Scope(), f"cherry{number} banana{number}", top_k=100).hits
                assert cube.id not in [hit.id for hit in found]


def test_index_and_scan_agree(data_folder: Any, embedder: Embedder) -> None:
    items = [{"text": f"{FILLER[n % 8]} number{n} group{n % 7}"} for n in range(300)]
    with MemoryOS(Settings(home=data_folder, index_threshold=100), embedder) as engine:
        engine.store_many(Scope(), items)
        before = engine.recall(Scope(), "umbrella in group3", top_k=20)
        engine.relay.drain()
        assert engine.stats(Scope()).indexed
        after = engine.recall(Scope(), "umbrella in group3", top_k=20)
    assert [hit.id for hit in after.hits] == [hit.id for hit in before.hits]


def test_index_full_of_put_away_memories(data_folder: Any, embedder: Embedder) -> None:
    """Archived memories stay in the vector index; they may not crowd out the others."""
    items = [{"text": f"alpha beta {n}"} for n in range(150)]
    with MemoryOS(Settings(home=data_folder, index_threshold=10), embedder) as engine:
        for cube in engine.store_many(Scope(), items):
            engine.move("default", cube.id, State.ARCHIVED)
        engine.store_many(Scope(), [{"text": f"gamma {n}"} for n in range(5)])
        engine.relay.drain()
        assert len(engine.recall(Scope(), "alpha beta", top_k=5).hits) == 5


def test_survives_reopening(data_folder: Any, embedder: Embedder) -> None:
    with Memory(path=data_folder, embedder=embedder) as memory:
        first = memory.store("Ann adopted a cat", metadata={"x": 1})
    with Memory(path=data_folder, embedder=embedder) as memory:
        assert memory.get(first.id) == first
        assert texts(memory.recall("cat")) == ["Ann adopted a cat"]


def test_nothing_stored(memory: Memory) -> None:
    found = memory.recall("anything", explain=True)
    assert (found.hits, found.context) == ((), "")


# ---------------------------------------------------------------- order and number


def test_best_first(memory: Memory) -> None:
    memory.store_many([{"text": text} for text in [*FILLER, "Ann adopted a grey cat from the shelter"]])
    found = memory.recall("Which cat did Ann adopt?", top_k=5)
    assert found.hits[0].text.startswith("Ann adopted")
    scores = [hit.score for hit in found.hits]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("top_k", [1, 3, 8, 50, 1_000])
def test_top_k(memory: Memory, top_k: int) -> None:
    memory.store_many([{"text": text} for text in FILLER])
    assert len(memory.recall("the bakery", top_k=top_k).hits) == min(top_k, 8)


def test_top_k_is_filled_past_the_candidates(memory: Memory) -> None:
    """More memories wanted than either ranking proposes."""
    memory.store_many([{"text": f"the cat numbered{n} sat down"} for n in range(700)])
    assert len(memory.recall("where is the cat?", top_k=500).hits) == 500


# ---------------------------------------------------------------- neighbours, links, speakers, time


def session(run_id: str | None) -> list[dict[str, Any]]:
    turns = ["What did you think of the lighthouse trip?", "Loved it, honestly!", "Same here."]
    return [{"text": text, "run_id": run_id} for text in turns]


def rank_of(found: Any, text: str) -> int:
    return texts(found).index(text)


def test_session_neighbours_help(memory: Memory) -> None:
    """An answer that shares no word with the question is found through what was said before it."""
    memory.store_many([{"text": text} for text in FILLER], user_id="with")
    memory.store_many(session("r1"), user_id="with")
    memory.store_many([{"text": text} for text in FILLER], user_id="without")
    memory.store_many(session(None), user_id="without")
    ranks = [
        rank_of(memory.recall("lighthouse trip", user_id=user, top_k=20), "Loved it, honestly!")
        for user in ("with", "without")
    ]
    assert ranks[0] <= 1 < ranks[1]


def test_sessions_do_not_mix(memory: Memory) -> None:
    memory.store("What did you think of the lighthouse trip?", run_id="r1")
    memory.store_many([{"text": text} for text in FILLER])
    memory.store("Loved it, honestly!", run_id="r2")
    found = memory.recall("lighthouse trip", explain=True, top_k=20)
    hit = found.hits[rank_of(found, "Loved it, honestly!")]
    assert (hit.why or {})["parts"]["lexical"] == 0


def link(engine: MemoryOS, source: str, target: str, score: float) -> None:
    """Write a link as the notes tier will."""
    with engine.database.write() as connection:
        namespace = namespaces.open_for_write(connection, Scope())
        row = {
            "source_id": source,
            "target_id": target,
            "type": "semantic",
            "source_version": 1,
            "target_version": 1,
            "score": score,
            "author": "test",
            "created_at": now_us(),
        }
        CubeRepository(connection, namespace.id)._insert(links, [row])


def test_links_raise_the_linked(engine: MemoryOS) -> None:
    items = [{"text": text} for text in [*FILLER, "Ann visited the lighthouse", "Bring warm socks"]]
    cubes = engine.store_many(Scope(), items)
    lighthouse, socks = cubes[-2].id, cubes[-1].id
    before = {hit.id: hit.score for hit in engine.recall(Scope(), "the lighthouse visit", top_k=20).hits}
    link(engine, lighthouse, socks, 0.9)
    found = engine.recall(Scope(), "the lighthouse visit", top_k=20, explain=True).hits
    raised = next(hit for hit in found if hit.id == socks)
    assert raised.score == pytest.approx(before[socks] + LINK * 0.9 * before[lighthouse], rel=1e-4)
    assert [(one.source_id, one.target_id, one.reversed) for one in raised.links] == [(socks, lighthouse, True)]
    assert [one.target_id for one in engine.links("default", lighthouse)] == [socks]


def test_forgetting_takes_links_along(engine: MemoryOS) -> None:
    one, other = engine.store_many(Scope(), [{"text": "a cat"}, {"text": "a dog"}])
    link(engine, one.id, other.id, 1.0)
    assert engine.forget("default", other.id).removed["links"] == 1
    assert engine.links("default", one.id) == []
    assert engine.recall(Scope(), "cat").hits[0].links == ()


def test_speaker_named_in_the_question(memory: Memory) -> None:
    turns = ["the garden needs work", "dinner was fine", "the bus was late"]
    for name in ("Ann", "Bob"):
        memory.store_many([{"text": f"{name}: {text}", "run_id": name} for text in turns])
        memory.store(f"{name}: painting is my hobby", metadata={"speaker": name})
    for name in ("Ann", "Bob"):
        best = memory.recall(f"What is {name}'s hobby?", explain=True).hits[0]
        assert best.text == f"{name}: painting is my hobby"
        assert (best.why or {})["parts"]["speaker"] > 0


@pytest.mark.parametrize(
    ("question", "day"),
    [
        ("What did we eat together in the garden at the long wooden table on 8 May 2023?", 8),
        ("What did we eat together in the garden at the long wooden table on 2023-05-10?", 10),
        ("What did we eat together in the garden at the long wooden table on May 12?", 12),
    ],
)
def test_date_in_the_question(memory: Memory, question: str, day: int) -> None:
    memory.store_many(
        [
            {
                "text": f"We ate {dish} together at the long wooden table outside in the garden",
                "event_time": f"2023-05-{number:02}T19:00:00",
            }
            for number, dish in enumerate("soup rice pasta bread beans curry salad fish".split(), 7)
        ]
    )
    best = memory.recall(question, explain=True).hits[0]
    assert best.event_time.day == day
    assert (best.why or {})["parts"]["time"] > 0


def test_yesterday_counts_from_as_of(memory: Memory) -> None:
    memory.store_many(
        [
            {"text": f"We ate {dish}", "event_time": f"2023-05-{n:02}"}
            for n, dish in enumerate(["soup", "rice", "pie"], 7)
        ]
    )
    best = memory.recall("What did we eat yesterday?", as_of="2023-05-09T12:00:00").hits[0]
    assert best.text == "We ate rice"


# ---------------------------------------------------------------- versions, expiry, states


def test_update_supersedes(memory: Memory) -> None:
    cube = memory.store("Ann lives in Paris")
    memory.update(cube.id, text="Ann lives in Rome")
    found = memory.recall("Where does Ann live? Paris?")
    assert [(hit.text, hit.version) for hit in found.hits] == [("Ann lives in Rome", 2)]
    assert "Paris" not in found.context


def test_as_of_returns_what_held_then(memory: Memory) -> None:
    cube = memory.store("Ann lives in Paris", event_time="2020-01-01")
    between = datetime.now(UTC)
    time.sleep(0.002)
    memory.update(cube.id, text="Ann lives in Rome")
    old = memory.recall("Where does Ann live?", as_of=between, explain=True).hits
    assert [(hit.text, hit.version) for hit in old] == [("Ann lives in Paris", 1)]
    assert datetime.fromisoformat((old[0].why or {})["valid_to"]) > between
    assert texts(memory.recall("Where does Ann live?", as_of=datetime.now(UTC))) == ["Ann lives in Rome"]
    assert texts(memory.recall("Where does Ann live?", as_of="2019-12-31")) == []
    assert texts(memory.recall("Where does Ann live?", as_of="2020-01-01")) == ["Ann lives in Paris"]


def test_expired_is_hidden(memory: Memory) -> None:
    cube = memory.store("The code is 1234", expires_at=datetime.now(UTC) + timedelta(seconds=0.3))
    assert len(memory.recall("code").hits) == 1
    before = datetime.now(UTC)
    time.sleep(0.35)
    assert memory.recall("code").hits == ()
    assert len(memory.recall("code", as_of=before).hits) == 1
    assert memory.get(cube.id).text == "The code is 1234"


@pytest.mark.parametrize("state", [State.ARCHIVED, State.EXPIRED, State.QUARANTINED])
def test_put_away_is_hidden(engine: MemoryOS, state: State) -> None:
    cube = engine.store_many(Scope(), [{"text": "Ann adopted a cat"}])[0]
    engine.move("default", cube.id, state)
    assert engine.recall(Scope(), "cat").hits == ()
    assert engine.get("default", cube.id).state is state


# ---------------------------------------------------------------- narrowing and isolation


@pytest.mark.parametrize(
    ("narrow", "expected"),
    [
        ({}, {"a1 r1", "a1 r2", "a2 r1", "none"}),
        ({"agent_id": "a1"}, {"a1 r1", "a1 r2"}),
        ({"run_id": "r1"}, {"a1 r1", "a2 r1"}),
        ({"agent_id": "a1", "run_id": "r1"}, {"a1 r1"}),
        ({"agent_id": "a9"}, set()),
    ],
)
def test_agent_and_run_narrow(memory: Memory, narrow: dict[str, Any], expected: set[str]) -> None:
    for agent, run in (("a1", "r1"), ("a1", "r2"), ("a2", "r1")):
        memory.store(f"{agent} {run}", agent_id=agent, run_id=run)
    memory.store("none")
    found = memory.recall("a1 a2 r1 r2 none", **narrow)
    assert set(texts(found)) == expected
    assert {cube.text for cube in memory.list(**narrow)} == expected
    assert all(hit.agent_id == narrow.get("agent_id", hit.agent_id) for hit in found.hits)


USERS = ["ann", "Ann", "ann ", "bob", "default", "a/b", "a"]
NAMES = [name for name in USERS if name == name.strip()]


@given(
    owners=st.lists(st.sampled_from(NAMES), min_size=2, max_size=8),
    asks=st.sampled_from(NAMES),
    word=st.sampled_from(["cat", "dog"]),
)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_users_never_meet(memory: Memory, owners: list[str], asks: str, word: str) -> None:
    """Near-identical memories of several users, in one session by name: nobody sees another's."""
    for name in NAMES:
        memory.forget_all(user_id=name)
    own: dict[str, set[str]] = {name: set() for name in NAMES}
    for number, owner in enumerate(owners):
        text = f"the {'cat' if number % 2 else 'dog'} sleeps on the sofa {number // 4}"
        own[owner].add(memory.store(text, user_id=owner, run_id="r", agent_id="a").id)
    found = memory.recall(f"where sleeps the {word}?", user_id=asks, top_k=100, explain=True)
    seen = {hit.id for hit in found.hits}
    seen |= {twin for hit in found.hits for twin in (hit.why or {})["duplicates"]}
    assert seen == own[asks]
    assert {cube.id for cube in memory.list(user_id=asks)} == own[asks]
    assert memory.stats(user_id=asks).memories == len(own[asks])
    for foreign in set().union(*own.values()) - own[asks]:
        for operation in (memory.get, memory.history, memory.links, memory.forget):
            with pytest.raises(NotFound):
                operation(foreign, user_id=asks)
        with pytest.raises(NotFound):
            memory.update(foreign, text="mine now", user_id=asks)


def test_default_user_is_not_everyone(memory: Memory) -> None:
    memory.store("the cat of ann", user_id="ann")
    assert memory.recall("cat").hits == ()
    assert memory.list() == []
    assert memory.recall("cat", user_id="default").hits == ()


def test_tenants_never_meet(engine: MemoryOS) -> None:
    """The same user name at two tenants is two people, and an id says nothing across them."""
    mine, yours = Scope(tenant="one", user_id="ann"), Scope(tenant="two", user_id="ann")
    cube = engine.store_many(mine, [{"text": "the cat sleeps"}])[0]
    other = engine.store_many(yours, [{"text": "the cat sleeps!"}])[0]
    assert [hit.id for hit in engine.recall(mine, "cat").hits] == [cube.id]
    assert [found.id for found in engine.list(yours)] == [other.id]
    for user_id in (None, "ann"):
        for operation in (engine.get, engine.history, engine.links, engine.forget):
            with pytest.raises(errors.NotFound):
                operation("two", cube.id, user_id=user_id)
        with pytest.raises(errors.NotFound):
            engine.update("two", cube.id, user_id=user_id, text="mine now")
        with pytest.raises(errors.NotFound):
            engine.move("two", cube.id, State.ARCHIVED, user_id=user_id)
    engine.forget_all(yours)
    assert engine.get("one", cube.id) == cube


def test_forget_all_spares_others(memory: Memory) -> None:
    memory.store("the cat of ann", user_id="ann")
    bobs = memory.store("the cat of bob", user_id="bob")
    memory.forget_all(user_id="ann")
    assert [cube.id for cube in memory.list(user_id="bob")] == [bobs.id]
    assert [hit.id for hit in memory.recall("cat", user_id="bob").hits] == [bobs.id]


# ---------------------------------------------------------------- duplicates, context, explain


def test_near_duplicates_are_one_hit(memory: Memory) -> None:
    cubes = memory.store_many([{"text": "Ann adopted a cat"}, {"text": "ann adopted a cat!"}])
    found = memory.recall("cat", explain=True)
    assert len(found.hits) == 1
    assert {found.hits[0].id, *(found.hits[0].why or {})["duplicates"]} == {cube.id for cube in cubes}


def test_other_date_is_no_duplicate(memory: Memory) -> None:
    long = "Ann and Bob met at the harbour cafe near the old lighthouse for a long lunch"
    memory.store_many([{"text": f"{long} on {day} May"} for day in (5, 6)])
    assert len(memory.recall("lunch").hits) == 2


def test_duplicates_leave_no_gap(memory: Memory) -> None:
    same = [{"text": "Ann adopted a cat"}] * 40
    memory.store_many([*same, *({"text": text} for text in FILLER)])
    assert len(memory.recall("cat", top_k=5).hits) == 5


def dated(memory: Memory) -> None:
    memory.store_many([{"text": text, "event_time": f"2023-0{9 - n}-01"} for n, text in enumerate(FILLER)])


def test_context_is_in_order_of_time(memory: Memory) -> None:
    dated(memory)
    found = memory.recall("the train and the weather", top_k=4)
    lines = found.context.splitlines()
    assert lines == sorted(lines)
    assert set(lines) == {f"[{hit.event_time:%Y-%m-%d}] {hit.text}" for hit in found.hits}


@pytest.mark.parametrize("budget", [1, 7, 10, 25, 1_000])
def test_context_fits_the_budget(memory: Memory, embedder: Embedder, budget: int) -> None:
    dated(memory)
    found = memory.recall("the train", max_tokens=budget)
    assert embedder.count_tokens(found.context) <= budget
    whole = [f"[{hit.event_time:%Y-%m-%d}] {hit.text}" for hit in found.hits]
    assert set(found.context.splitlines()) <= set(whole)
    assert len(found.hits) == 8
    if budget >= 10:
        assert whole[0] in found.context


def test_explained_parts_sum_to_the_score(memory: Memory) -> None:
    memory.store_many([{"text": f"Ann: {text}", "run_id": "r"} for text in FILLER])
    memory.store_many([{"text": "Ann: Which train?", "event_time": "2023-05-08"}])
    found = memory.recall("Which train did Ann take on 8 May 2023?", explain=True)
    for hit in found.hits:
        assert sum((hit.why or {})["parts"].values()) == pytest.approx(hit.score, abs=1e-5)
    assert all(milliseconds >= 0 for milliseconds in found.timings.values())
    assert {"embed", "rank"} <= found.timings.keys()


def test_unexplained_says_nothing(memory: Memory) -> None:
    memory.store("Ann adopted a cat")
    found = memory.recall("cat")
    assert (found.hits[0].why, found.timings) == (None, {})


def test_hit_carries_the_memory(memory: Memory) -> None:
    cube = memory.store("Ann adopted a cat", agent_id="a", run_id="r", metadata={"x": 1}, event_time="2023-05-08")
    hit = memory.recall("cat").hits[0]
    assert (hit.id, hit.text, hit.version, hit.metadata) == (cube.id, cube.text, 1, {"x": 1})
    assert (hit.agent_id, hit.run_id, hit.links) == ("a", "r", ())
    assert hit.event_time == datetime(2023, 5, 8, tzinfo=UTC)


# ---------------------------------------------------------------- what is kept in memory


def test_views_that_do_not_fit(data_folder: Any, embedder: Embedder) -> None:
    """Without memory for views every recall loads its own, and answers the same."""
    with MemoryOS(Settings(home=data_folder, cache_bytes=0), embedder) as engine:
        for _ in range(2):
            for user in ("ann", "bob", "carl"):
                engine.store_many(Scope(user_id=user), [{"text": f"the cat of {user}"}])
                found = engine.recall(Scope(user_id=user), "cat", explain=True).hits
                assert {hit.text for hit in found} == {f"the cat of {user}"}


def test_view_behind_the_trimmed_feed(data_folder: Any, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deletion records are kept for a while only; a view that missed some is loaded afresh."""
    monkeypatch.setattr("memos.plaintext.erasing.OUTBOX_KEEP", 3)
    monkeypatch.setattr("memos.plaintext.reader.NoteReader.follow", lambda *_: None)  # as if another process deleted
    with MemoryOS(Settings(home=data_folder), embedder) as engine:
        cubes = engine.store_many(Scope(), [{"text": f"cat number{n}"} for n in range(20)])
        assert len(engine.recall(Scope(), "cat", top_k=50).hits) == 20
        for cube in cubes[:10]:
            engine.forget("default", cube.id)
        left = engine.recall(Scope(), "cat", top_k=50).hits
        assert {hit.id for hit in left} == {cube.id for cube in cubes[10:]}


def test_export_holds_own_memories_only(memory: Memory, tmp_path: Any) -> None:
    memory.store("the cat of ann", user_id="ann")
    memory.store("the dog of bob", user_id="bob")
    assert memory.export(tmp_path / "ann.jsonl", user_id="ann") == 1
    exported = (tmp_path / "ann.jsonl").read_text()
    assert "the cat of ann" in exported
    assert "bob" not in exported
