"""The store on PostgreSQL: the same as the embedded one, for many writers in many processes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from memos.config import Settings
from memos.cube import Scope, State
from memos.engine import MemoryOS
from memos.errors import Conflict, EmbedderMismatch, LegalHold, NotFound, StoreUnavailable, VersionConflict
from memos.store.schema import metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memos.embedding.base import Embedder
    from memos.plaintext.recall import RecallResult

SCOPE = Scope(user_id="u")
Open = Callable[..., MemoryOS]


@pytest.fixture
def opened(tmp_path: Path, embedder: Embedder) -> Iterator[Open]:
    """Open any number of engines, each with a home of its own, as different processes have."""
    with ExitStack() as stack:

        def open_one(name: str, **settings: Any) -> MemoryOS:
            return stack.enter_context(MemoryOS(Settings(home=tmp_path / name, **settings), embedder))

        yield open_one


@pytest.fixture
def postgres(opened: Open, postgres_database: str) -> MemoryOS:
    return opened("postgres", database_url=postgres_database)


def count(engine: MemoryOS, what: str) -> int:
    """Run one counting query."""
    with engine.database.read() as connection:
        return int(connection.execute(sa.text(f"SELECT {what}")).scalar_one())


def test_file_that_a_dead_process_left_goes_with_the_next_look(postgres: MemoryOS) -> None:
    """However young it is: as long as somebody publishes, nobody looks."""
    key = "ab" * 32
    left = postgres.settings.home / "kv" / "ab" / f"{key}.safetensors"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"keys and values")
    with postgres.activation.publishing:
        looking = threading.Thread(target=postgres.scrub)
        looking.start()
        looking.join(0.2)
        assert left.exists()
    looking.join()
    assert not left.exists()


# ------------------------------------------------------------ one life


def test_life_of_a_memory(postgres: MemoryOS) -> None:
    item = {"text": "Ann: I adopted a cat", "metadata": {"topic": "pets"}, "run_id": "s1"}
    (cube,) = postgres.store_many(SCOPE, [item], idempotency_key="once")
    assert postgres.store_many(SCOPE, [item], idempotency_key="once") == [cube]
    assert postgres.recall(SCOPE, "which cat?").hits[0].id == cube.id
    renewed = postgres.update(SCOPE.tenant, cube.id, text="Ann: I adopted a dog", expected_version=1)
    assert (renewed.version, renewed.metadata) == (2, {"topic": "pets"})
    assert postgres.recall(SCOPE, "which dog?").hits[0].text == "Ann: I adopted a dog"
    assert [version.text[-3:] for version in postgres.history(SCOPE.tenant, cube.id)] == [
        "cat",
        "dog",
    ]
    assert postgres.move(SCOPE.tenant, cube.id, State.ARCHIVED).state is State.ARCHIVED
    assert postgres.recall(SCOPE, "which dog?").hits == ()
    assert postgres.forget(SCOPE.tenant, cube.id).removed["versions"] == 2
    with pytest.raises(NotFound):
        postgres.get(SCOPE.tenant, cube.id)
    assert postgres.stats(SCOPE).memories == 0


def test_nothing_of_a_forgotten_namespace_stays(postgres: MemoryOS) -> None:
    postgres.store_many(SCOPE, [{"text": f"secret {n}"} for n in range(700)], idempotency_key="k")
    assert postgres.forget_all(SCOPE).removed["cubes"] == 700
    for table in ("cubes", "versions", "vectors", "idempotency"):
        assert count(postgres, f"count(*) FROM {table}") == 0
    assert postgres.recall(SCOPE, "secret").hits == ()


def test_no_table_says_what_was_forgotten(postgres: MemoryOS, opened: Open, postgres_database: str) -> None:
    """Each row of each table as text, in the eyes of another process, which checks the receipt as well."""
    word = "zanzibarium"
    told = {"text": f"{word}: it is {word}", "metadata": {word: word}, "expires_at": "2999-01-01"}
    (one, other) = postgres.store_many(SCOPE, [told, {"text": f"{word} too"}], idempotency_key=word)
    postgres.update(SCOPE.tenant, one.id, text=f"{word} once more")
    hold = postgres.hold(SCOPE.tenant, one.id)
    with pytest.raises(LegalHold):
        postgres.forget_all(SCOPE)
    postgres.release(SCOPE.tenant, hold.id)
    assert rows_with(postgres, word) > 0
    receipts = [postgres.forget(SCOPE.tenant, cube.id) for cube in (one, other)]
    assert rows_with(postgres, word) == 0
    assert receipts[0].lingering == ("database_pages",)
    assert receipts[0].removed["requests"] == 1
    beside = opened("beside", database_url=postgres_database)
    assert not beside.verify_receipt(SCOPE.tenant, receipts[0]).valid  # its home has another key
    assert all(postgres.verify_receipt(SCOPE.tenant, receipt).valid for receipt in receipts)


def rows_with(engine: MemoryOS, text: str) -> int:
    """How many rows of all tables hold a text."""
    tables = ", ".join(
        f"(SELECT count(*) FROM {table} AS r WHERE strpos(r::text, '{text}') > 0)" for table in metadata.tables
    )
    with engine.database.read() as connection:
        return sum(connection.execute(sa.text(f"SELECT {tables}")).one())


def test_expiry_is_done_by_one_process(postgres: MemoryOS, opened: Open, postgres_database: str) -> None:
    beside = opened("beside", database_url=postgres_database)
    postgres.store_many(SCOPE, [{"text": f"old {n}", "expires_at": "2999-01-01"} for n in range(30)])
    with postgres.database.write() as connection:
        connection.execute(sa.text("UPDATE cubes SET expires_at = 1"))
    with ThreadPoolExecutor(2) as pool:
        counts = [future.result() for future in [pool.submit(engine.expire) for engine in (postgres, beside)]]
    assert sum(count.expired for count in counts) == 30
    assert count(postgres, "count(*) FROM cubes") == 0


# ------------------------------------------------------------ the same answers

WORDS = (
    "adopted cat dog river painting violin lesson doctor appointment garden tomato bicycle repair flight lisbon "
    "wedding sister brother recipe lentil soup marathon training knee injury book club novel poem camera museum"
).split()
PEOPLE = ("Ann", "Ben", "Cleo")
START = datetime(2025, 1, 1, tzinfo=UTC)


def conversation(dice: random.Random, turns: int) -> list[dict[str, Any]]:
    """Make turns of several sessions over a year, some of them questions, with metadata."""
    items = []
    for turn in range(turns):
        said = " ".join(dice.choices(WORDS, k=dice.randint(3, 25))) + dice.choice([".", "?"])
        items.append(
            {
                "text": f"{dice.choice(PEOPLE)}: {said}",
                "event_time": START + timedelta(hours=turn * 17),
                "run_id": f"session-{turn // 20}",
                "metadata": {"turn": turn, "topic": dice.choice(["home", "work"]), "weight": 1.5},
            }
        )
    return items


def questions(dice: random.Random) -> list[dict[str, Any]]:
    """Make questions of every kind: by words, person, date, filter and past moment."""
    asked: list[dict[str, Any]] = []
    for number in range(24):
        question: dict[str, Any] = {"query": " ".join(dice.choices(WORDS, k=4))}
        if number % 4 == 1:
            question["query"] = f"What did {dice.choice(PEOPLE)} say about {question['query']} in May?"
            question["as_of"] = START + timedelta(days=200)
        if number % 4 == 2:
            question["filters"] = {"metadata.topic": "work", "metadata.turn": {"$lt": 300}}
        if number % 4 == 3:
            question["filters"] = {"run_id": f"session-{number % 7}"}
        asked.append(question)
    return asked


def answers(engine: MemoryOS) -> list[RecallResult]:
    """Store a conversation with changes in it, and ask."""
    dice = random.Random(11)
    items = conversation(dice, 400)
    cubes = [cube for start in range(0, 400, 40) for cube in engine.store_many(SCOPE, items[start : start + 40])]
    for cube in dice.sample(cubes, 30):
        engine.update(SCOPE.tenant, cube.id, text=f"{cube.text} and then {dice.choice(WORDS)}")
    for cube in dice.sample(cubes, 30):
        engine.forget(SCOPE.tenant, cube.id)
    return [engine.recall(SCOPE, top_k=20, explain=True, **question) for question in questions(dice)]


def test_same_ranking_as_embedded(opened: Open, postgres: MemoryOS) -> None:
    """Ids are random; the same memories in the same order with the same scores and parts."""
    pairs = zip(answers(opened("embedded")), answers(postgres), strict=True)
    for embedded, served in pairs:
        assert len(embedded.hits) > 3
        assert [hit.text for hit in served.hits] == [hit.text for hit in embedded.hits]
        assert [hit.metadata for hit in served.hits] == [hit.metadata for hit in embedded.hits]
        assert [hit.score for hit in served.hits] == pytest.approx([hit.score for hit in embedded.hits], abs=1e-6)
        assert served.context == embedded.context


# ------------------------------------------------------------ many writers

#: Stores batches in a namespace that others write to as well; prints the ids it was given.
STORE = """
import json, runpy, sys
from pathlib import Path
from memos.config import Settings
from memos.cube import Scope
from memos.engine import MemoryOS
root, home, url, name = sys.argv[1:]
embedder = runpy.run_path(root + "/tests/conftest.py")["HashEmbedder"]()
print("ready", flush=True)
sys.stdin.readline()
ids = []
with MemoryOS(Settings(home=Path(home), database_url=url), embedder) as engine:
    for batch in range(25):
        items = [{"text": f"{name} said {batch} {item}"} for item in range(8)]
        ids += [cube.id for cube in engine.store_many(Scope(user_id="u"), items)]
        engine.store_many(Scope(user_id=f"{name}-{batch}"), items[:1])
print(json.dumps(ids))
"""


def store_in_processes(names: list[str], root: Path, home: Path, url: str) -> list[str]:
    """Let one process per name write at once, from the first moment of the store on; return all ids."""
    with ExitStack() as stack:
        writers = []
        for name in names:
            command = [sys.executable, "-c", STORE, str(root), str(home / name), url, name]
            pipe = subprocess.PIPE
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
            writers.append(stack.enter_context(process))
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        spoken = [writer.communicate() for writer in writers]
    assert [errors for _, errors in spoken] == [""] * len(names)
    return [key for output, _ in spoken for key in json.loads(output)]


def test_processes_share_a_namespace(opened: Open, postgres_database: str, repository: Path, tmp_path: Path) -> None:
    """They meet while the schema, the first embedder and the namespace are made, too."""
    ids = store_in_processes(["ann", "ben", "cleo"], repository, tmp_path, postgres_database)
    engine = opened("reader", database_url=postgres_database)
    assert sorted(ids) == [cube.id for cube in engine.list(SCOPE, limit=1_000)]
    assert len(set(ids)) == 600
    assert count(engine, "revision FROM namespaces WHERE user_id = 'u'") == 75
    assert count(engine, "count(DISTINCT revision) FROM cubes WHERE namespace_id = 1") <= 75
    assert count(engine, "count(*) FROM namespaces") == 76
    assert count(engine, "count(*) FROM embedders WHERE active") == 1
    assert engine.recall(SCOPE, "ben said 7 3", top_k=1).hits[0].text == "ben said 7 3"


def test_first_memories_of_many_namespaces_at_once(opened: Open, postgres_database: str) -> None:
    """In an empty store every writer would register the embedder."""
    engines = [opened(f"server-{number}", database_url=postgres_database) for number in range(4)]
    start = threading.Barrier(8)

    def store(number: int) -> str:
        start.wait()
        return engines[number % 4].store_many(Scope(user_id=f"u{number}"), [{"text": "first"}])[0].id

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(store, range(8)))
    assert len(set(ids)) == 8
    assert count(engines[0], "count(*) FROM embedders") == 1


def test_reader_never_sees_a_gap(opened: Open, postgres_database: str) -> None:
    """Who sees revision r sees everything up to r, whatever order writers finish in."""
    engines = [opened(f"server-{number}", database_url=postgres_database) for number in range(2)]
    engines[0].store_many(SCOPE, [{"text": "the first"}])
    done = threading.Event()
    seen: list[tuple[int, int]] = []

    def watch() -> None:
        statement = "SELECT revision, (SELECT count(*) FROM cubes) FROM namespaces"
        while not done.is_set():
            with engines[0].database.read() as connection:
                seen.append(tuple(connection.execute(sa.text(statement)).one()))

    def write(number: int) -> None:
        for turn in range(20):
            engines[number % 2].store_many(SCOPE, [{"text": f"writer {number} turn {turn}"}])

    with ThreadPoolExecutor(5) as pool:
        watching = pool.submit(watch)
        list(pool.map(write, range(4)))
        done.set()
        watching.result()
    assert all(revision == cubes for revision, cubes in seen)
    assert seen == sorted(seen)
    assert engines[1].stats(SCOPE).memories == 81


def test_concurrent_updates_conflict_loudly(opened: Open, postgres_database: str) -> None:
    engines = [opened(f"server-{number}", database_url=postgres_database) for number in range(2)]
    (cube,) = engines[0].store_many(SCOPE, [{"text": "count 0"}])
    conflicts: list[int] = []

    def add_ten(engine: MemoryOS) -> None:
        added = 0
        while added < 10:
            present = engine.get(SCOPE.tenant, cube.id)
            text = f"count {int((present.text or '').split()[1]) + 1}"
            try:
                engine.update(SCOPE.tenant, cube.id, text=text, expected_version=present.version)
            except VersionConflict as conflict:
                conflicts.append(conflict.extra["current_version"])
            else:
                added += 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add_ten, engines * 2))
    history = engines[0].history(SCOPE.tenant, cube.id)
    assert [version.text for version in history] == [f"count {number}" for number in range(41)]
    assert conflicts


# ------------------------------------------------------------ two servers, one truth


def test_acknowledged_is_visible_to_all(opened: Open, postgres_database: str) -> None:
    one, two = (opened(name, database_url=postgres_database) for name in ("one", "two"))
    one.store_many(SCOPE, [{"text": "something to warm the other one's view"}])
    assert len(two.recall(SCOPE, "something").hits) == 1
    for number in range(10):
        (cube,) = one.store_many(SCOPE, [{"text": f"plan {number} is a picnic"}])
        assert two.recall(SCOPE, f"plan {number} picnic", top_k=1).hits[0].id == cube.id
        two.update(SCOPE.tenant, cube.id, text=f"plan {number} is a concert")
        assert one.recall(SCOPE, f"plan {number}", top_k=1).hits[0].text == f"plan {number} is a concert"
        one.forget(SCOPE.tenant, cube.id)
        assert cube.id not in {hit.id for hit in two.recall(SCOPE, f"plan {number} concert").hits}
        with pytest.raises(NotFound):
            two.get(SCOPE.tenant, cube.id)
    two.forget_all(SCOPE)
    assert one.recall(SCOPE, "something").hits == ()


def test_embedder_changed_by_one_of_two(
    opened: Open, postgres_database: str, embedder: Embedder, other_embedder: Embedder
) -> None:
    """The other one never mixes vectors: until it is told of the new embedder, it refuses."""
    one, two = (opened(name, database_url=postgres_database) for name in ("one", "two"))
    one.store_many(SCOPE, [{"text": f"fact {number}"} for number in range(300)])
    refused = threading.Event()

    def write_until_refused(number: int) -> None:
        for turn in range(500):
            user = f"user {number} {turn}" if turn % 2 else SCOPE.user_id
            try:
                two.store_many(Scope(user_id=user), [{"text": f"late {number} {turn}"}])
            except EmbedderMismatch:
                refused.set()
                return

    with ThreadPoolExecutor(3) as pool:
        writing = [pool.submit(write_until_refused, number) for number in range(3)]
        one.reindex(other_embedder)
        for writer in writing:
            writer.result()
    assert refused.is_set()
    missing = "count(*) FROM versions v LEFT JOIN vectors e USING (cube_id, version)"
    assert count(one, f"{missing} WHERE e.embedder_id IS DISTINCT FROM 2") == 0
    assert count(one, "count(*) FROM embedders") == 1
    with pytest.raises(EmbedderMismatch):
        two.recall(SCOPE, "fact 7")
    assert one.recall(SCOPE, "fact 7", top_k=1).hits[0].text == "fact 7"


def test_one_embedder_change_at_a_time(opened: Open, postgres_database: str, other_embedder: Embedder) -> None:
    one, two = (opened(name, database_url=postgres_database) for name in ("one", "two"))
    with two.database.lease("memos-embedder-change"), pytest.raises(Conflict, match="already"):
        one.reindex(other_embedder)
    assert one.reindex(other_embedder) == 0


# ------------------------------------------------------------ a dead server


def test_postgres_killed_and_back(opened: Open, own_postgres: tuple[Any, str]) -> None:
    server, url = own_postgres
    engine = opened("home", database_url=url)
    (cube,) = engine.store_many(SCOPE, [{"text": "kept in PostgreSQL"}])
    engine.recall(SCOPE, "kept")
    server.kill()
    calls: list[Callable[[], object]] = [
        lambda: engine.recall(SCOPE, "kept"),
        lambda: engine.store_many(SCOPE, [{"text": "lost"}]),
        lambda: engine.update(SCOPE.tenant, cube.id, text="lost"),
        lambda: engine.forget(SCOPE.tenant, cube.id),
        lambda: engine.get(SCOPE.tenant, cube.id),
        lambda: engine.stats(SCOPE),
        lambda: engine.reindex(),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match="does not answer"):
            call()
    server.start()
    assert engine.recall(SCOPE, "kept").hits[0].text == "kept in PostgreSQL"
    engine.store_many(SCOPE, [{"text": "stored after the restart"}])
    assert engine.stats(SCOPE).memories == 2


def test_opening_without_postgres(opened: Open, own_postgres: tuple[Any, str]) -> None:
    server, url = own_postgres
    server.kill()
    with pytest.raises(StoreUnavailable) as caught:
        opened("home", database_url=url)
    assert str(sa.make_url(url).password) not in str(caught.value)
    server.start()
    assert opened("home", database_url=url).list(SCOPE) == []
