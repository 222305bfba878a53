"""What must hold once everything is up again and nobody writes: promises, deletions, jobs, and no orphans."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from memos.cube import FUSION, Scope
from memos.engine import MemoryOS
from memos.store.database import Database
from tests.integration.crashes.ledger import Ledger, Promise, marks
from tests.integration.crashes.stack import Stack
from tests.integration.crashes.traffic import USERS, Api

QUIET_S, LOOK_S = 180.0, 0.2
PAGE = 1_000
FINAL = ("done", "failed", "cancelled")
#: Each counts rows that may not exist.
BROKEN_RULES = {
    "version without cube": "versions WHERE cube_id NOT IN (SELECT id FROM cubes)",
    "vector without version": "vectors WHERE (cube_id, version) NOT IN (SELECT cube_id, version FROM versions)",
    "memory without its version": "cubes WHERE kind = 'plaintext' AND (id, version) NOT IN "
    "(SELECT cube_id, version FROM versions)",
    "version without vector": "versions WHERE (cube_id, version) NOT IN (SELECT cube_id, version FROM vectors)",
    "link to nothing": "links WHERE source_id NOT IN (SELECT id FROM cubes) OR target_id NOT IN (SELECT id FROM cubes)",
    "cube without payload": "cubes WHERE kind <> 'plaintext' AND id NOT IN "
    "(SELECT cube_id FROM activations UNION SELECT cube_id FROM adapters)",
    "file made from nothing": "parents WHERE cube_id IN (SELECT cube_id FROM activations) "
    "AND parent_id NOT IN (SELECT id FROM cubes)",
    "miscounted namespace": "namespaces n WHERE memories <> "
    "(SELECT count(*) FROM cubes WHERE namespace_id = n.id AND kind = 'plaintext')",
    "index ahead of SQL": "namespaces WHERE indexed_revision > revision",
}
_MEMORIES = sa.text("SELECT id FROM cubes WHERE kind = 'plaintext' AND namespace_id = :space")


def check(stack: Stack, api: Api, ledger: Ledger, dice: random.Random, most: int) -> None:
    """Check everything, and repair once in between; of what takes long, ``most`` of each kind."""
    await_jobs(stack, api)
    check_jobs(api, ledger)
    listed = {user: list_all(api, user) for user in USERS}
    check_memories(ledger, listed)
    check_silence(api, ledger)
    check_recall(api, ledger, dice, most)
    with MemoryOS(stack.settings) as engine:
        check_totals(engine.database)
        await_index(engine)
        check_receipts(api, engine.database, dice.sample(ledger.receipts, min(most, len(ledger.receipts))))
        engine.repair()
        check_no_orphans(engine)
        judged = [one for one in engine.doctor().findings if one.name != "disk"]
        assert [one for one in judged if one.status != "ok"] == []
    assert {user: list_all(api, user) for user in USERS} == listed, "the repair changed memories"


# ------------------------------------------------------------ jobs


def await_jobs(stack: Stack, api: Api) -> None:
    """Wait until no job waits or runs."""
    deadline = time.monotonic() + QUIET_S
    while unfinished := [job for user in USERS for state in ("queued", "running") for job in jobs_of(api, user, state)]:
        assert time.monotonic() < deadline, unfinished
        stack.supervise()
        time.sleep(LOOK_S)


def jobs_of(api: Api, user: str, state: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the jobs of a user."""
    after: dict[str, str] = {} if state is None else {"state": state}
    while page := api.ask("GET", "jobs", params={"user_id": user, "limit": PAGE, **after}).json()["jobs"]:
        yield from page
        after["after"] = page[-1]["id"]


def check_jobs(api: Api, ledger: Ledger) -> None:
    """Every job that was asked for is over, and no file came out of two of them."""
    jobs = {job["id"]: job for user in USERS for job in jobs_of(api, user)}
    assert ledger.jobs.keys() <= jobs.keys()
    assert {job["state"] for job in jobs.values()} <= set(FINAL)
    made = Counter(job["result"]["cube_id"] for job in jobs.values() if (job["result"] or {}).get("made"))
    assert [cube_id for cube_id, times in made.items() if times > 1] == []


def fusions(api: Api) -> int:
    """Return how many memories were made of several."""
    jobs = [job for user in USERS for job in jobs_of(api, user) if job["task"] == "fuse"]
    return sum(bool((job["result"] or {}).get("made")) for job in jobs)


def check_totals(database: Database) -> None:
    """Every promotion ended once: as many ends were counted as there are promotions that ended, by state."""
    with database.read() as connection:
        jobs = "SELECT state, count(*) FROM jobs WHERE task = 'promote' GROUP BY state"
        ended = "SELECT state, count FROM job_totals WHERE task = 'promote'"
        assert sorted(connection.execute(sa.text(jobs)).all()) == sorted(connection.execute(sa.text(ended)).all())


# ------------------------------------------------------------ memories


def list_all(api: Api, user: str) -> dict[str, str]:
    """Return what all memories of a user say that somebody stored, by id."""
    listed: dict[str, str] = {}
    after: dict[str, str] = {}
    while page := api.ask("GET", "memories", params={"user_id": user, "limit": PAGE, **after}).json()["memories"]:
        for cube in page:
            fused = cube["provenance"]["source"] == FUSION  # its sources are not listed themselves
            told = sources_of(api, cube["id"]) if fused else [cube]
            listed.update((one["id"], one["text"]) for one in told)
        after = {"after": page[-1]["id"]}
    return listed


def sources_of(api: Api, cube_id: str) -> list[dict[str, Any]]:
    """Return the memories that one was fused from."""
    sources: list[dict[str, Any]] = api.ask("GET", f"memories/{cube_id}/sources").json()["memories"]
    return sources


def check_memories(ledger: Ledger, listed: dict[str, dict[str, str]]) -> None:
    """Every promise is kept, what was left open happened whole or not at all, and nothing else is there."""
    for user, texts in listed.items():
        kept = {one.id: one for one in ledger.kept.values() if one.user == user}
        assert [one for one in kept.values() if texts.get(one.id) not in one.texts] == [], (
            "an acknowledged write is lost"
        )
        assert not ledger.gone.keys() & texts.keys(), "a forgotten memory is back"
        doubtful = {one.id: one for one in ledger.doubtful.values() if one.user == user}
        assert [one for one in doubtful.values() if one.id in texts and texts[one.id] not in one.texts] == []
        others = Counter(text for cube_id, text in texts.items() if cube_id not in {*kept, *doubtful})
        whole = [batch for owner, batch in ledger.open if owner == user and batch <= others.keys()]
        assert others == Counter(text for batch in whole for text in batch), "half a batch, or one twice"


def check_silence(api: Api, ledger: Ledger) -> None:
    """Neither an export, which has the history of everything, nor a list holds what was forgotten."""
    for user in USERS:
        said = api.ask("GET", "export", params={"user_id": user}).text
        assert not ledger.forgotten() & marks(said), "a forgotten memory is exported"
        assert {mark for one in kept_for_sure(ledger, user) for mark in marks(*one.texts)} <= marks(said)
        for one in [one for one in ledger.gone.values() if one.user == user]:
            answer = api.send("GET", f"memories/{one.id}")
            assert answer is not None
            assert answer.status_code == 404


def check_recall(api: Api, ledger: Ledger, dice: random.Random, most: int) -> None:
    """A question with the words of a memory finds it, and those of a forgotten one find nothing of it."""
    for user in USERS:
        sure, gone = kept_for_sure(ledger, user), [one for one in ledger.gone.values() if one.user == user]
        for one in dice.sample(sure, min(most, len(sure))):
            (text,) = one.texts
            answer = api.ask("POST", "recall", json={"query": text, "user_id": user, "top_k": 3})
            assert marks(text) <= marks(answer.text), "a memory is not recalled, nor what it was fused to"
        for one in dice.sample(gone, min(most, len(gone))):
            answer = api.ask("POST", "recall", json={"query": sorted(one.said)[0], "user_id": user})
            assert not ledger.forgotten() & marks(answer.text), "a forgotten memory is recalled"


def kept_for_sure(ledger: Ledger, user: str) -> list[Promise]:
    """Return the memories of a user of which it is known what they say."""
    return [one for one in ledger.kept.values() if one.user == user and len(one.texts) == 1]


def check_receipts(api: Api, database: Database, receipts: Sequence[dict[str, Any]]) -> None:
    """What receipts say was removed is removed, everywhere, unless it was a KV file that somebody had made again."""
    with database.read() as connection:
        named = {f"kv/{key}" for key in connection.scalars(sa.text("SELECT key FROM activations"))}
    for receipt in receipts:
        told = api.ask("POST", "receipts/verify", json={"receipt": receipt}).json()
        again = {"files", "kv_files"} if named & set(receipt["files"]) else set()
        assert [one for one in told["checks"] if not one["passed"] and one["name"] not in again] == []


# ------------------------------------------------------------ orphans


def await_index(engine: MemoryOS) -> None:
    """Let the vector index take in what it has not yet, as a relay does by itself."""
    for user in USERS:
        engine.relay.follow(Scope(user_id=user))


def check_no_orphans(engine: MemoryOS) -> None:
    """Rows, files and index entries belong together, each way."""
    with engine.database.read() as connection:
        for rule, broken in BROKEN_RULES.items():
            assert connection.scalar(sa.text(f"SELECT count(*) FROM {broken}")) == 0, rule
        named = {
            "kv": set(connection.scalars(sa.text("SELECT key FROM activations"))),
            "adapters": set(connection.scalars(sa.text("SELECT key FROM adapters WHERE key IS NOT NULL"))),
        }
        spaces = connection.execute(sa.text("SELECT id, collection FROM namespaces")).all()
        memories = {space: set(connection.scalars(_MEMORIES, {"space": space})) for space, _ in spaces}
    home = engine.settings.home
    for tier, keys in named.items():
        assert {path.name for path in (home / tier).glob("??/*")} == {f"{key}.safetensors" for key in keys}, tier
    assert [*(home / "training").glob("*"), *(home / "transfer").glob("*/")] == []
    assert {collection for _, collection in spaces if collection} == set(engine.index.names())
    for space, collection in spaces:
        if collection is not None:
            assert {one for page, _ in engine.index.pages(collection) for one in page} == memories[space]
