"""What the doctor finds in files, texts and collections, and what repair makes of it: memories are never touched."""

from __future__ import annotations

import runpy
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from memos.config import Settings
from memos.cube import Scope
from memos.doctor import diagnose
from memos.doctor.repair import Action
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.parametric.distil.folder import training_folder
from memos.schedule.scrub import FILE, Throttle

HELPERS = runpy.run_path(str(Path(__file__).resolve().parents[1] / "backup" / "conftest.py"))
ANN = Scope(user_id="ann")
BOB = Scope(tenant="other", user_id="bob")


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory, embedder: Embedder) -> Path:
    """A closed store with some of everything, to be copied."""
    home = tmp_path_factory.mktemp("furnished") / "data"
    with HELPERS["opened"](home, embedder, notes="off") as engine:
        for scope in (ANN, BOB):
            HELPERS["furnish"](engine, scope)
    return home


@pytest.fixture
def home(furnished: Path, data_folder: Path) -> Path:
    """A copy of it."""
    shutil.copytree(furnished, data_folder)
    return data_folder


@pytest.fixture
def reopen(home: Path, embedder: Embedder) -> Callable[..., MemoryOS]:
    """Open it."""
    return lambda **options: HELPERS["opened"](home, embedder, **options)


def run(home: Path, statement: str) -> None:
    with closing(sqlite3.connect(home / "memos.db")) as connection, connection:
        connection.execute(statement)


def files(home: Path, tier: str) -> list[Path]:
    return sorted((home / tier).rglob("*.safetensors"))


def lose(tier: str) -> Callable[[Path], object]:
    return lambda home: shutil.rmtree(home / tier)


def flip(tier: str) -> Callable[[Path], object]:
    return lambda home: [path.write_bytes(path.read_bytes()[:-1] + b"!") for path in files(home, tier)]


def stray(home: Path) -> None:
    (path, *_) = files(home, "kv")
    shutil.copy(path, path.with_name("e" * 64 + ".safetensors"))
    (home / "adapters" / "00").mkdir(exist_ok=True)
    (home / "adapters" / "00" / ".killed.tmp").write_bytes(b"half of it")


def stray_training(home: Path) -> None:
    folder = training_folder(home, Scope(user_id="gone"), ["a note"])
    folder.mkdir(parents=True)
    (folder / "checkpoint").write_text("what a note says")


#: Name of the damage: what does it, the finding that tells, how bad that is, and what repair says it did.
DAMAGE: dict[str, tuple[Callable[[Path], object], str, str, list[str]]] = {
    "kv lost": (lose("kv"), "kv", "warning", ["dropped a KV file"] * 2),
    "kv damaged": (flip("kv"), "kv", "warning", ["dropped a KV file"] * 2),
    "secret lost": (lambda home: (home / "kv" / "secret").unlink(), "kv", "warning", ["dropped a KV file"] * 2),
    "adapters lost": (lose("adapters"), "adapters", "warning", ["dropped an adapter"] * 4),
    "adapters damaged": (flip("adapters"), "adapters", "warning", ["dropped an adapter"] * 4),
    "strays": (stray, "strays", "warning", ["removed 1 KV files", "removed 1 adapters"]),
    "training": (stray_training, "strays", "warning", ["removed 1 checkpoints"]),
    "terms": (
        lambda home: run(home, "UPDATE versions SET terms = 'wrong' WHERE text LIKE '%Oslo'"),
        "texts",
        "error",
        ["wrote the lexical terms"] * 2,
    ),
    "count": (
        lambda home: run(home, "UPDATE namespaces SET memories = 9 WHERE user_id = 'ann'"),
        "memories",
        "error",
        ["counted the memories"],
    ),
}


def everything(home: Path) -> None:
    """All of it at once, of ann's files some lost and of bob's some damaged."""
    for tier in ("kv", "adapters"):
        lost, *damaged = files(home, tier)
        lost.unlink()
        for number, path in enumerate(damaged):
            path.write_bytes(path.read_bytes()[:100])
            shutil.copy(path, path.with_name(f"{number:064x}.safetensors"))
    stray_training(home)
    for name in ("terms", "count"):
        DAMAGE[name][0](home)


DAMAGE["everything"] = (
    everything,
    "strays",
    "warning",
    [
        "removed 1 KV files",
        "removed 3 adapters",
        "removed 1 checkpoints",
        "counted the memories",
        "wrote the lexical terms",
        *["dropped an adapter"] * 2,
        "dropped a KV file",
        "wrote the lexical terms",
        *["dropped an adapter"] * 2,
        "dropped a KV file",
    ],
)


def told(home: Path, embedder: Embedder) -> dict[str, str]:
    findings = diagnose(Settings(home=home), embedder).findings
    return {finding.name: finding.status.value for finding in findings}


def memories_of(engine: MemoryOS) -> Any:
    """Every row of the truth."""
    rows = HELPERS["rows_of"](engine.database)
    return {name: rows[name] for name in ("versions", "vectors", "links", "influences")}


@pytest.mark.parametrize(
    "name", ["everything", *(pytest.param(name, marks=pytest.mark.soak) for name in DAMAGE if name != "everything")]
)
def test_damage_is_told_repaired_and_gone(
    home: Path, reopen: Callable[..., MemoryOS], embedder: Embedder, name: str
) -> None:
    do, finding, status, expected = DAMAGE[name]
    with reopen() as engine:
        before = memories_of(engine)
    do(home)
    assert told(home, embedder)[finding] == status
    with reopen() as engine:
        actions = engine.repair().actions
        assert [one.done[: len(what)] for one, what in zip(actions, expected, strict=True)] == expected
        assert engine.repair().actions == ()
        assert memories_of(engine) == before
        assert engine.recall(ANN, "who moved to Oslo?").hits[0].text == "Ann moved to Oslo"
    assert {status for name, status in told(home, embedder).items() if name != "disk"} == {"ok"}


def test_adapters_are_trained_again_and_repairs_are_logged(home: Path, reopen: Callable[..., MemoryOS]) -> None:
    lose("adapters")(home)
    with reopen() as engine:
        engine.repair()
        with engine.database.read() as connection:
            trainings = connection.exec_driver_sql("SELECT task, state FROM jobs WHERE task = 'retrain'").all()
            logged = connection.exec_driver_sql("SELECT detail FROM audit WHERE action = 'repair'").scalars().all()
    assert trainings == [("retrain", "queued")] * 2, "one for each user: the version before was not served"
    assert logged == ['{"harm": "file-lost"}'] * 4


def test_changed_text_is_told_and_left(home: Path, reopen: Callable[..., MemoryOS], embedder: Embedder) -> None:
    run(home, "UPDATE versions SET text = 'Ann moved to Bonn' WHERE text LIKE '%Oslo'")
    assert told(home, embedder)["texts"] == "error"
    with reopen() as engine:
        report = engine.repair()
        assert (report.found, report.actions) == ({"text": 2}, ())
        assert len(engine.list(ANN)) == 3
    assert told(home, embedder)["texts"] == "error"


def test_collection_that_disagrees_is_built_anew(
    home: Path, reopen: Callable[..., MemoryOS], embedder: Embedder
) -> None:
    with reopen(index_threshold=2) as engine:
        engine.relay.drain()
        (first, *_), (name, *_) = engine.list(ANN), sorted(engine.index.names())
        vectors = embedder.embed(["something else"])
        damages: list[Callable[[], None]] = [
            lambda: engine.index.remove(name, [first.id]),
            lambda: engine.index.upsert(name, [first.id], vectors),
            lambda: engine.index.upsert(name, ["a ghost"], vectors),
            lambda: engine.index.drop(name),
        ]
        for damage in damages:
            damage()
            assert {one.name: one.status for one in engine.doctor().findings}["index"] == "error"
            (action,) = engine.repair().actions
            assert (action.namespace, action.harm) == ("default/ann", "index")
            assert engine.doctor().healthy
            assert engine.index.size(name) == 3
    assert told(home, embedder)["index"] == "ok"


def test_files_over_their_budget(home: Path, embedder: Embedder) -> None:
    report = diagnose(Settings(home=home, kv_bytes=1_000), embedder)
    (finding,) = [one for one in report.findings if one.name == "kv budget"]
    assert (finding.status, "raise MEMOS_KV_BYTES" in finding.message) == ("warning", True)


def test_looking_makes_no_secret(home: Path, embedder: Embedder) -> None:
    (home / "kv" / "secret").unlink()
    told(home, embedder)
    assert not (home / "kv" / "secret").exists()


# ------------------------------------------------------------ the scrub


class Stopped(Exception):
    """Somebody wants the scrub to end."""


@pytest.fixture
def slow(reopen: Callable[..., MemoryOS]) -> Iterator[MemoryOS]:
    """An engine whose scrubs read next to nothing in one run: one thing after the other."""
    with reopen(scrub_bytes_per_s=1) as engine:
        yield engine


@pytest.fixture
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a scrub not wait for what it may read."""
    monkeypatch.setattr("memos.schedule.scrub.Throttle._early", lambda _: 0.0)


@pytest.mark.usefixtures("no_sleep")
def test_each_run_goes_on_where_the_last_one_ended(slow: MemoryOS, home: Path) -> None:
    places = []
    while not (report := slow.scrub()).complete:
        assert report.bytes > 60
        places.append((home / FILE).read_text())
    assert len(places) == len(set(places)) > 6
    assert len(slow.scrub().actions) == 0
    assert (home / FILE).read_text() == places[0], "and begins anew at the end"


@pytest.mark.usefixtures("no_sleep")
def test_damage_is_found_in_the_course_of_some_runs(slow: MemoryOS, home: Path) -> None:
    flip("kv")(home)
    stray(home)
    first = slow.scrub()
    assert [one.harm for one in first.actions] == ["stray", "stray"], "what belongs to nothing goes at once"
    actions: list[Action] = []
    while not (report := slow.scrub()).complete:
        actions += report.actions
    actions += report.actions
    assert sorted(one.namespace or "" for one in actions) == ["default/ann", "other/bob"]
    assert slow.doctor().healthy
    assert slow.stats(ANN).activations == 0


@pytest.mark.usefixtures("no_sleep")
def test_torn_cursor_begins_anew(slow: MemoryOS, home: Path) -> None:
    slow.scrub()
    first = (home / FILE).read_text()
    for torn in ("", "{", "[]", '{"space": "x"}', first[:-4]):
        (home / FILE).write_text(torn)
        slow.scrub()
        assert (home / FILE).read_text() == first


def test_stopped_scrub_goes_on_later(slow: MemoryOS, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(progress: float) -> None:
        raise Stopped

    monkeypatch.setattr("memos.schedule.scrub._BEAT_S", 0.0)
    with suppress(Stopped):
        slow.scrub(stop)
    before = (home / FILE).read_text()
    monkeypatch.setattr("memos.schedule.scrub.Throttle._early", lambda _: 0.0)
    assert slow.scrub().bytes > 0
    assert (home / FILE).read_text() != before


def test_scrub_is_a_task(reopen: Callable[..., MemoryOS]) -> None:
    with reopen(working=True) as engine:
        with engine.database.write() as connection:
            from memos.store.jobs import JobRepository

            job_id = JobRepository(connection, 1).add("scrub", {})
        engine._jobs.submit(Scope(), job_id)
        while (job := engine.job("default", job_id)).state not in ("done", "failed"):
            pass
        assert (job.state, (job.result or {})["complete"]) == ("done", True)


def test_throttle_keeps_below_its_rate() -> None:
    now, calls = [0.0], []

    def sleep(seconds: float) -> None:
        now[0] += seconds

    throttle = Throttle(100, lambda: calls.append(now[0]), clock=lambda: now[0], sleep=sleep)
    for count in (50, 50, 400):
        throttle.spend(count)
        assert now[0] == pytest.approx(throttle.spent / 100)
    assert len(calls) == 5, "about once a second"
    now[0] += 100
    throttle.spend(1_000)
    assert now[0] == pytest.approx(105), "what was not read then may be read now"
