"""After a deletion nothing is left: no file, no index, no answer holds the text."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import sqlalchemy as sa

from memos.clock import HOUR_US, now_us
from memos.config import Settings
from memos.cube import FUSION, MemCube, Scope, State
from memos.doctor.strays import sweep_trainings
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.parametric.distil.folder import training_folder
from memos.store import namespaces
from memos.store.jobs import FINAL, JobRepository, JobState
from memos.store.leases import LeaseRepository
from memos.store.notes import NoteRepository
from memos_sdk import Memory
from memos_sdk.errors import NotFound

if TYPE_CHECKING:
    from memos.parametric.adapter import Adapter
    from memos.runtime.host import ModelHost

SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
SECRET = "zanzibarium"
ELSEWHERE = "quokkafield"


def files_with(folder: Path, *texts: str, also: Sequence[bytes] = ()) -> list[str]:
    """Files under a folder that hold one of some texts in any of the ways SQLite or Chroma write it, or some bytes."""
    needles = [form for text in texts for form in (text.encode(), text.encode("utf-16-le"), text.upper().encode())]
    needles += also
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            found += [path.name] if any(needle in data for needle in needles) else []
    return found


def test_scan_finds_what_is_stored(memory: Memory, data_folder: Path) -> None:
    """The scan would prove nothing if it could not see a memory that is there."""
    memory.store(f"The code word is {SECRET}")
    assert files_with(data_folder, SECRET)


def test_forget_leaves_no_trace(memory: Memory, data_folder: Path) -> None:
    cube = memory.store(f"The code word is {SECRET}", metadata={"word": SECRET}, idempotency_key="k")
    kept = memory.store(f"The other word is {ELSEWHERE}")
    memory.update(cube.id, text=f"The code word was {SECRET}!")
    memory.recall(SECRET)
    memory.forget(cube.id)
    assert files_with(data_folder, SECRET) == []
    assert files_with(data_folder, ELSEWHERE) != []
    assert memory.get(kept.id) == kept
    memory.close()
    assert files_with(data_folder, SECRET) == []


def test_forget_all_leaves_no_trace(memory: Memory, data_folder: Path) -> None:
    memory.store_many([{"text": f"note {n} about {SECRET}", "run_id": "r"} for n in range(200)], user_id="u")
    memory.store(f"note about {ELSEWHERE}", user_id="other")
    memory.forget_all(user_id="u")
    assert files_with(data_folder, SECRET) == []
    assert files_with(data_folder, ELSEWHERE) != []


def test_long_text_leaves_no_trace(memory: Memory, data_folder: Path) -> None:
    """Texts of many pages lie on overflow pages of the database."""
    cube = memory.store(f"{SECRET} " * 20_000, metadata={"x": SECRET * 1_000})
    memory.forget(cube.id)
    assert files_with(data_folder, SECRET) == []


def test_indexed_forget_leaves_no_trace(data_folder: Path, embedder: Embedder) -> None:
    with MemoryOS(Settings(home=data_folder, index_threshold=10), embedder) as engine:
        cubes = engine.store_many(Scope(), [{"text": f"{SECRET} number{n}"} for n in range(30)])
        engine.relay.drain()
        receipt = engine.forget("default", cubes[0].id)
        assert receipt.pending == ()
        assert cubes[0].id not in [hit.id for hit in engine.recall(Scope(), "number0", top_k=100).hits]
        assert engine.forget_all(Scope()).pending == ()
        assert files_with(data_folder, SECRET) == []


def test_receipt_counts(memory: Memory) -> None:
    cube = memory.store("one", user_id="u")
    memory.update(cube.id, text="two")
    receipt = memory.forget(cube.id)
    assert (receipt.cube_ids, receipt.user_id, receipt.pending) == ((cube.id,), "u", ())
    assert receipt.removed["cubes"] == 1
    assert receipt.removed["versions"] == receipt.removed["vectors"] == 2
    assert receipt.removed["links"] == 0
    assert receipt.deleted_at >= cube.time.created_at


def test_receipt_of_forget_all(memory: Memory) -> None:
    cubes = memory.store_many([{"text": f"note {n}"} for n in range(1_200)])
    memory.update(cubes[0].id, text="changed")
    receipt = memory.forget_all()
    assert receipt.cube_ids == tuple(cube.id for cube in cubes)
    assert (receipt.removed["cubes"], receipt.removed["versions"]) == (1_200, 1_201)
    assert memory.stats().memories == memory.stats().versions == memory.stats().vectors == 0


@pytest.mark.parametrize(
    ("narrow", "left"),
    [
        ({"agent_id": "a"}, ["b r", "b s"]),
        ({"run_id": "r"}, ["a s", "b s"]),
        ({"agent_id": "a", "run_id": "r"}, ["a s", "b r", "b s"]),
        ({}, []),
    ],
)
def test_forget_all_of_an_agent_or_run(memory: Memory, narrow: dict[str, str], left: list[str]) -> None:
    for agent in "ab":
        for run in "rs":
            memory.store(f"{agent} {run}", agent_id=agent, run_id=run)
    memory.recall("a b r s")
    receipt = memory.forget_all(**narrow)
    assert receipt.removed["cubes"] == 4 - len(left)
    assert [cube.text for cube in memory.list()] == left
    assert sorted(hit.text for hit in memory.recall("a b r s").hits) == left


def test_forgotten_is_not_found(memory: Memory) -> None:
    cube = memory.store("x")
    memory.forget(cube.id)
    for operation in (memory.forget, memory.get, memory.history, memory.links):
        with pytest.raises(NotFound, match="may have been forgotten"):
            operation(cube.id)
    with pytest.raises(NotFound):
        memory.update(cube.id, text="y")


def test_second_forget_all_removes_nothing(memory: Memory) -> None:
    memory.store("x")
    memory.forget_all()
    receipt = memory.forget_all()
    assert (receipt.cube_ids, set(receipt.removed.values())) == ((), {0})


def test_forgotten_stays_forgotten(data_folder: Path, embedder: Embedder) -> None:
    with Memory(path=data_folder, embedder=embedder) as memory:
        cube = memory.store(SECRET)
        memory.forget(cube.id)
    with Memory(path=data_folder, embedder=embedder) as memory:
        assert memory.recall(SECRET).hits == ()
        with pytest.raises(NotFound):
            memory.get(cube.id)
    assert files_with(data_folder, SECRET) == []


def test_store_after_forget_all(memory: Memory) -> None:
    memory.store("the old cat")
    memory.recall("cat")
    memory.forget_all()
    memory.store("the new cat")
    assert [hit.text for hit in memory.recall("cat").hits] == ["the new cat"]


def test_jobs_know_nothing_of_it(engine: MemoryOS) -> None:
    """What is to be done with others is still done; what came of it is not told any more."""
    one, two = engine.store_many(Scope(), [{"text": "one"}, {"text": "two"}])
    with engine.database.write() as connection:
        jobs = JobRepository(connection, namespaces.open_for_write(connection, Scope()).id)
        alone, both, done = (jobs.add("elsewhere", {"ids": ids}) for ids in ([one.id], [one.id, two.id], [two.id]))
        leases = LeaseRepository(connection, jobs.namespace_id)
        lease = leases.take(Scope(), done)
        assert lease is not None
        leases.end(lease, JobState.DONE, result={"cube_id": two.id, "from": [one.id]})
    assert engine.forget("default", one.id).removed["jobs"] == 3
    with engine.database.read() as connection:
        rows = connection.execute(sa.text("SELECT id, state, payload, result FROM jobs ORDER BY id")).all()
    assert [(row.id, row.state, json.loads(row.payload)["ids"]) for row in rows] == [
        (alone, "cancelled", []),
        (both, "queued", [two.id]),
        (done, "done", [two.id]),
    ]
    assert engine.job("default", done).result is None


def test_checkpoint_that_a_dead_training_left(engine: MemoryOS, data_folder: Path) -> None:
    """It is kept for a job that goes on with it, and for nobody else."""
    ann = Scope(user_id="ann")
    (note,) = engine.store_many(ann, [{"text": SECRET}])
    for scope in (ann, Scope(user_id="bob")):
        folder = training_folder(data_folder, scope, [note.id])
        folder.mkdir(parents=True)
        (folder / "checkpoint").write_text(SECRET)
    with engine.database.write() as connection:
        namespace = namespaces.open_for_write(connection, ann)
        JobRepository(connection, namespace.id).add("distil", {"ids": [note.id]})
    sweep_trainings(engine.database, data_folder)
    kept = [path.parent for path in data_folder.rglob("checkpoint")]
    assert kept == [training_folder(data_folder, ann, [note.id])]
    engine.forget("default", note.id)
    assert files_with(data_folder, SECRET) == []


# ------------------------------------------------------------ many lives


TOKEN = re.compile(rb"zq[0-9a-f]{16}vlk")  # no stemmer shortens it


def tokens_in(folder: Path) -> set[str]:
    """Every made-up word that a file under a folder holds."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {found.decode() for path in files for found in TOKEN.findall(path.read_bytes())}


@pytest.mark.timeout(1_200 if SOAK else 120)
def test_random_lives_leave_no_trace(data_folder: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words of a line or of many pages, changed, forgotten, expired, singly or by run: only what is kept is found."""
    monkeypatch.setattr("memos.schedule.expiry.now_us", lambda: now_us() + 2 * HOUR_US)
    dice = random.Random()
    words: dict[str, set[str]] = {}

    def words_of(text: str) -> set[str]:
        return {found.decode() for found in TOKEN.findall(text.encode())}

    def text() -> str:
        return f"zq{dice.getrandbits(64):016x}vlk " * dice.choice([1, 3, 40, 900])

    with MemoryOS(Settings(home=data_folder, index_threshold=30 if SOAK else 20_000), embedder) as engine:
        for turn in range(12 if SOAK else 2):
            items: list[dict[str, Any]] = [
                {"text": text(), "metadata": {"k": text()}, "run_id": f"r{n % 3}"} for n in range(50 if SOAK else 15)
            ]
            items += [{"text": text(), "expires_at": datetime.now(UTC) + timedelta(hours=1)} for _ in range(5)]
            for cube in engine.store_many(Scope(), items):
                words[cube.id] = words_of(f"{cube.text} {cube.metadata}")
            for cube_id in dice.sample(sorted(words), 8):
                words[cube_id] |= words_of(engine.update("default", cube_id, text=text()).text or "")
            engine.relay.drain()
            for cube_id in dice.sample(sorted(words), 12 if SOAK else 6):
                engine.forget("default", cube_id)
            if turn % 2:
                engine.forget_all(Scope(run_id="r1"))
            engine.expire()
            words = {cube.id: words[cube.id] for cube in engine.list(Scope(), limit=1_000)}
            assert tokens_in(data_folder) == set().union(*words.values())
    assert tokens_in(data_folder) == set().union(*words.values())


# ------------------------------------------------------------ through every door


def wait_for(engine: MemoryOS, job_id: str) -> None:
    while engine.job("default", job_id).state not in FINAL:
        threading.Event().wait(0.01)


def notes_written(engine: MemoryOS) -> None:
    wait_for(engine, engine.refine(Scope()).id)


def adapter_of(models: ModelHost) -> Adapter:
    """Return an adapter of two numbers that fits the model."""
    import torch

    from memos.parametric.adapter import FEED_FORWARD, Adapter, Factors
    from memos.parametric.checks import Frame

    frame = Frame.of(models.serving().loaded)
    inputs, outputs = frame.sizes[FEED_FORWARD[0]]
    return Adapter(frame.base, {(0, FEED_FORWARD[0]): Factors(torch.ones(1, inputs), torch.ones(outputs, 1), 1.0)})


def fused(engine: MemoryOS, text: str, *sources: MemCube) -> MemCube:
    """Write a memory from others, which it then stands for."""
    (cube,) = engine.store_many(Scope(), [{"text": text, "source": FUSION, "infer": False}])
    with engine.database.write() as connection:
        namespace = namespaces.open_for_write(connection, Scope())
        for source in sources:
            NoteRepository(connection, namespace.id).merge(cube.id, (source.id, source.version))
    for source in sources:
        engine.move("default", source.id, State.ARCHIVED)
    return cube


class Planter:
    """Brings one word into a store through every door there is."""

    def __init__(self, engine: MemoryOS, client: httpx.Client, models: ModelHost, word: str) -> None:
        self.engine, self.client, self.models, self.word = engine, client, models, word
        self.ids: list[str] = []

    def post(self, path: str, body: Any, **headers: str) -> Any:
        answer = self.client.post(path, json=body, headers=headers)
        assert answer.is_success, answer.text
        return answer.json()

    def plant(self, outside: Path) -> None:
        """Do it all; the memories' ids are kept."""
        word = self.word
        kept = [self.engine.store_many(Scope(), [{"text": "I live in Rome with my brother."}])[0]]
        made = self.post(
            "/v1/memories", {"text": f"{word}: my code is {word}", "metadata": {word: word}}, **self.key(1)
        )
        self.client.patch(
            f"/v1/memories/{made['id']}", json={"text": f"{word} again, {word}"}, headers=self.key(2)
        ).raise_for_status()
        told = self.post("/v1/memories", {"memories": [{"text": f"I moved from Rome to {word}."}]}, **self.key(3))
        notes_written(self.engine)
        self.ids += [made["id"], told["memories"][0]["id"]]
        assert any(word in repr(self.engine.history("default", one.id)) for one in kept)
        self.echo(f"The {word} of the harbour master is kept below the third stair.")
        twin = self.post("/v1/memories", {"text": f"My sister breeds {word} on a farm."})
        self.post("/v1/memories", {"text": f"My sister breeds {word} on a farm"})
        self.ids.append(twin["id"])
        self.fuse()
        self.chat()
        self.promote()
        self.engine.export(Scope(), outside / "export.jsonl")
        assert self.client.get("/v1/export").is_success

    def key(self, number: int) -> dict[str, str]:
        return {"Idempotency-Key": f"{self.word} {number}", "X-Request-ID": self.word}

    def echo(self, text: str) -> None:
        """Tell something, and store what recall makes of it."""
        told = self.post("/v1/memories", {"text": text})
        notes_written(self.engine)
        context = self.post("/v1/recall", {"query": text, "top_k": 1})["context"]
        again = self.post("/v1/memories", {"text": context})
        notes_written(self.engine)
        assert self.engine.get("default", again["id"]).state is State.QUARANTINED
        self.ids.append(told["id"])

    def fuse(self) -> None:
        one, other = self.engine.store_many(
            Scope(),
            [{"text": f"Tom found a {self.word}.", "infer": False}, {"text": "Tom has a boat.", "infer": False}],
        )
        fused(self.engine, f"Tom has a boat, and found a {self.word}.", one, other)
        self.ids.append(one.id)

    def chat(self) -> None:
        """Chat about it; both turns are stored."""
        asked = {"model": "memos", "messages": [{"role": "user", "content": f"What is {self.word}?"}], "max_tokens": 2}
        answer = self.post("/v1/chat/completions", asked)
        self.ids += answer["memos"]["stored"]

    def promote(self) -> None:
        """Make a KV file and an adapter."""
        cube = self.engine.store_many(Scope(), [{"text": f"The {self.word} is blue. " * 12, "infer": False}])[0]
        self.ids.append(cube.id)
        wait_for(self.engine, self.post("/v1/bundles", {"ids": [cube.id], "to": "activation"})["id"])
        assert self.engine.kv_files(Scope())
        gate = {"passed": True, "facts": [self.word]}
        self.engine.parametric.publish(
            Scope(), adapter_of(self.models), sources=[(cube.id, 1)], gate=gate, provenance={"options": {}}
        )


@pytest.mark.timeout(300)
def test_nothing_is_left_of_what_came_through_any_door(
    data_folder: Path,
    tmp_path: Path,
    embedder: Embedder,
    shallow_models: ModelHost,
    serve: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = Settings(home=data_folder, notes="offline", index_threshold=5, bundle_min_tokens=8)
    opened: list[MemoryOS] = []

    def open_engine() -> MemoryOS:
        opened.append(MemoryOS(settings, embedder, shallow_models))
        return opened[0]

    with serve(open_engine) as service, httpx.Client(base_url=service.url, timeout=60) as client:
        engine, word = opened[0], f"zq{random.Random().getrandbits(40):x}vlk"
        planter = Planter(engine, client, shallow_models, word)
        planter.plant(tmp_path)
        engine.relay.drain()
        tokens = shallow_models.serving().loaded.tokenizer.encode(f" {word}", add_special_tokens=False)
        as_ids = b"".join(one.to_bytes(4, "little") for one in tokens)
        assert {"memos.db-wal"} < set(files_with(data_folder, word, also=[as_ids]))
        receipts = [client.delete(f"/v1/memories/{cube_id}") for cube_id in planter.ids]
        assert [answer.status_code for answer in receipts] == [200] * len(receipts)
        notes_written(engine)
        check_receipts(client, [answer.json() for answer in receipts])
        assert files_with(data_folder, word, also=[as_ids]) == []
        (view,) = engine._views._views.values()
        assert word not in repr([vars(view), vars(view.lexical), vars(view.columns)])
        again = client.post("/v1/memories", json={"text": "x"}, headers=planter.key(1))
        assert (again.status_code, again.json()["code"]) == (404, "not-found")  # a repetition brings nothing back
    assert files_with(data_folder, word, also=[as_ids]) == []
    logged = "".join(record.getMessage() for record in caplog.records if record.name != "memos_api.access")
    assert word not in logged + json.dumps(capfd.readouterr())


def check_receipts(client: httpx.Client, receipts: list[dict[str, Any]]) -> None:
    """Every receipt holds, and names both exports."""
    for receipt in receipts:
        assert set(receipt["pending"]) <= {"jobs"}  # what is being trained may have read it: it ends at its next report
        assert [one["kind"] for one in receipt["exports"]] == ["memories"] * 2
        found: dict[str, Any] = {}
        for _ in range(600):
            found = client.post("/v1/receipts/verify", json={"receipt": receipt}).json()
            if found["valid"]:
                break
            time.sleep(0.1)
        assert found["valid"], found
