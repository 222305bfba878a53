"""One set of tests for both ways to run jobs: in a process of their own, and over Redis in a Celery worker.

What runs them is a real process each time, which is killed with SIGKILL where a test is about that.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from memos.clock import now_us
from memos.config import Settings
from memos.cube import Scope
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import Conflict, InvalidInput
from memos.schedule.celery_queue import JOBS, SWEEP, CeleryQueue, make_app
from memos.store import namespaces, scoped
from memos.store.database import Database
from memos.store.job_totals import ended_jobs
from memos.store.jobs import MAX_ATTEMPTS, Job, JobRepository, JobState
from memos.store.leases import claim

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class Place:
    """A database with jobs, and one process that runs them."""

    def __init__(self, url: str, log: Path) -> None:
        self.database = Database(url)
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def command(self) -> list[str]:
        """How the process is started."""
        raise NotImplementedError

    def submit(self, scope: Scope, job_id: str) -> None:
        """Hand a job over as the engine does."""
        raise NotImplementedError

    def look(self) -> None:
        """Let time pass: have it look for what may be run by now."""
        raise NotImplementedError

    def start(self, **environment: str) -> None:
        """Start the process."""
        folders = [str(HERE), *(str(ROOT / name) for name in ("", "workers", "kernels"))]
        with self._log.open("a") as output:
            self._process = subprocess.Popen(
                self.command(),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(folders), "MEMOS_NOTES": "off", **environment},
                cwd=self._log.parent,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                text=True,
            )

    def kill(self) -> None:
        """End the process with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    def close(self) -> None:
        """End everything."""
        assert self._process is not None
        self._process.terminate()
        self._process.communicate()
        self.database.close()

    def tell(self, line: str) -> None:
        """Write a line to the process."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


class InProcess(Place):
    """The executor of an embedded store."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "memos.db"
        super().__init__(f"sqlite:///{self._file}", folder / "log")

    def command(self) -> list[str]:
        return [sys.executable, str(HERE / "probe.py"), str(self._file)]

    def submit(self, scope: Scope, job_id: str) -> None:
        self.tell(job_id)

    def look(self) -> None:
        self.tell("")


class OverCelery(Place):
    """A worker with one thread, behind a real Redis."""

    def __init__(self, url: str, broker_url: str, folder: Path) -> None:
        super().__init__(url, folder / "log")
        self._settings = {"MEMOS_DATABASE_URL": url, "MEMOS_BROKER_URL": broker_url, "MEMOS_HOME": str(folder / "home")}
        self._queue = CeleryQueue(broker_url)
        self._app = make_app(broker_url)

    def command(self) -> list[str]:
        options = ["--concurrency", "1", "--loglevel", "info", "--without-mingle", "--without-gossip"]
        return [sys.executable, "-m", "celery", "-A", "probe", "worker", *options]

    def start(self, **environment: str) -> None:
        super().start(**self._settings, **environment)

    def submit(self, scope: Scope, job_id: str) -> None:
        self._queue.submit(scope, job_id)

    def look(self) -> None:
        self._app.send_task(SWEEP)

    def close(self) -> None:
        self._queue.stop()
        self._app.close()
        super().close()


@pytest.fixture(scope="module", params=["in process", "celery"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place whose process runs; every test has tenants of its own in it."""
    folder = tmp_path_factory.mktemp("jobs")
    place: Place
    if request.param == "in process":
        place = InProcess(folder)
    else:
        url = request.getfixturevalue("shared_postgres_database")
        place = OverCelery(url, request.getfixturevalue("broker")[1], folder)
    place.start()
    yield place
    place.close()


class Desk:
    """Jobs of one test: their log, and the file that ends those that last."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place = place
        self.scope = Scope(tenant=uuid.uuid4().hex)
        self.go_on = folder / "go on"
        self._log = folder / "lines"

    def add(self, name: str, *, lasts: bool = False, scope: Scope | None = None, priority: int = 0, **more: Any) -> str:
        """Queue a job as a write does, and tell nobody."""
        until = {"until": str(self.go_on)} if lasts else {}
        payload = {"log": str(self._log), "name": name, **until, **more}
        with self.place.database.write() as connection:
            namespace = namespaces.open_for_write(connection, scope or self.scope)
            return JobRepository(connection, namespace.id).add("probe", payload, priority=priority)

    def submit(self, name: str, **how: Any) -> str:
        """Queue a job and hand it over."""
        job_id = self.add(name, **how)
        self.place.submit(how.get("scope") or self.scope, job_id)
        return job_id

    def change(self, job_id: str, change: Callable[[JobRepository, str], object]) -> None:
        """Change a job as its owner does."""
        with self.place.database.write() as connection:
            namespace = namespaces.find(connection, self.scope)
            assert namespace is not None
            change(JobRepository(connection, namespace.id), job_id)

    def job(self, job_id: str) -> Job:
        """Read a job."""
        with self.place.database.read() as connection:
            namespace = namespaces.find(connection, self.scope)
            assert namespace is not None
            found = JobRepository(connection, namespace.id).get(job_id, self.scope.user_id)
        assert found is not None
        return found

    def wait(self, job_id: str, state: JobState, attempts: int | None = None) -> Job:
        """Wait until a job is in a state (after so many attempts); return it."""
        deadline = time.monotonic() + 60
        while (job := self.job(job_id)).state is not state or attempts not in (None, job.attempts):
            assert time.monotonic() < deadline, job
            time.sleep(0.01)
        return job

    def wait_for_line(self, line: str) -> None:
        """Wait until a job has written it."""
        deadline = time.monotonic() + 60
        while line not in self.lines():
            assert time.monotonic() < deadline, line
            time.sleep(0.01)

    def lines(self) -> list[str]:
        """Return what the jobs wrote."""
        return self._log.read_text().splitlines() if self._log.exists() else []

    def pass_time(self, job_id: str) -> None:
        """Let the wait of a job be over, if it waits."""
        self._set("run_after = 0", job_id, JobState.QUEUED)

    def end_lease(self, job_id: str) -> None:
        """Let the lease of a job be over."""
        self._set("lease_until = 0", job_id, JobState.RUNNING)

    def _set(self, what: str, job_id: str, state: JobState) -> None:
        statement = sa.text(f"UPDATE jobs SET {what} WHERE id = :id AND state = :state AND NOT {what}")
        with self.place.database.write() as connection:
            changed = connection.execute(statement, {"id": job_id, "state": state.value}).rowcount
        if changed:
            self.place.look()


@pytest.fixture
def desk(running: Place, tmp_path: Path) -> Desk:
    return Desk(running, tmp_path)


# ------------------------------------------------------------ both


def test_job_runs_once_and_is_counted(desk: Desk) -> None:
    before = ended(desk)
    job = desk.wait(desk.submit("a"), JobState.DONE)
    assert (job.result, job.progress, job.attempts) == ({"name": "a"}, 1.0, 1)
    assert desk.lines() == ["begin a", "end a"]
    assert ended(desk) == before + 1


def ended(desk: Desk) -> int:
    with desk.place.database.read() as connection:
        return ended_jobs(connection).get(("probe", "done"), 0)


def test_worker_killed_in_the_middle_leaves_a_job_that_another_ends_once(desk: Desk) -> None:
    job_id = desk.submit("a", lasts=True)
    desk.wait_for_line("begin a")
    desk.place.kill()
    assert desk.job(job_id).state is JobState.RUNNING
    desk.go_on.touch()
    desk.place.start()
    desk.end_lease(job_id)
    job = desk.wait(job_id, JobState.DONE)
    assert (job.attempts, job.result) == (2, {"name": "a"})
    assert desk.lines() == ["begin a", "begin a", "end a"]


def test_cancelled_before_and_while_running(desk: Desk) -> None:
    running, waiting = desk.submit("running", lasts=True), desk.submit("waiting")
    desk.wait_for_line("begin running")
    desk.change(waiting, JobRepository.cancel)
    assert desk.job(waiting).state is JobState.CANCELLED
    desk.change(running, JobRepository.cancel)
    assert desk.wait(running, JobState.CANCELLED).result is None
    desk.go_on.touch()
    desk.wait(desk.submit("last"), JobState.DONE)
    assert desk.lines() == ["begin running", "begin last", "end last"]
    desk.change(running, JobRepository.cancel)  # twice is harmless
    desk.change(waiting, JobRepository.retry)
    desk.place.submit(desk.scope, waiting)
    desk.wait(waiting, JobState.DONE)
    with pytest.raises(Conflict, match="is done"):
        desk.change(waiting, JobRepository.cancel)


def test_failure_that_may_pass_is_tried_again_later(desk: Desk) -> None:
    job_id = desk.submit("a", failures=1)
    waiting = desk.wait(job_id, JobState.QUEUED, attempts=1)
    assert waiting.error == "store-unavailable: away for a moment"
    assert waiting.run_after > waiting.updated_at
    desk.pass_time(job_id)
    job = desk.wait(job_id, JobState.DONE)
    assert (job.attempts, job.error) == (2, None)


def test_dead_letter_is_kept_and_can_be_tried_again(desk: Desk) -> None:
    job_id = desk.submit("a", failures=MAX_ATTEMPTS)
    while (dead := desk.job(job_id)).state is not JobState.FAILED:
        desk.pass_time(job_id)
        time.sleep(0.01)
    assert (dead.attempts, dead.error) == (MAX_ATTEMPTS, "store-unavailable: away for a moment")
    desk.change(job_id, JobRepository.retry)
    desk.place.submit(desk.scope, job_id)
    job = desk.wait(job_id, JobState.DONE)
    assert (job.attempts, job.error) == (1, None)


def test_order_of_priority_then_of_age(desk: Desk) -> None:
    desk.submit("first", lasts=True)
    desk.wait_for_line("begin first")
    waiting = [desk.submit(f"{priority} {number}", priority=priority) for priority in (0, 9, 5) for number in range(3)]
    desk.go_on.touch()
    for job_id in waiting:
        desk.wait(job_id, JobState.DONE)
    begun = [line.removeprefix("begin ") for line in desk.lines() if line.startswith("begin ")]
    assert begun == ["first", *(f"{priority} {number}" for priority in (9, 5, 0) for number in range(3))]


def test_no_tenant_starves_another(desk: Desk) -> None:
    desk.submit("first", lasts=True)
    desk.wait_for_line("begin first")
    many = [desk.submit(f"many {number}", priority=9) for number in range(12)]
    other = Scope(tenant=f"{desk.scope.tenant}-other")
    for number in range(3):
        desk.submit(f"few {number}", scope=other)
    desk.go_on.touch()
    for job_id in many:
        desk.wait(job_id, JobState.DONE)
    begun = [line for line in desk.lines() if line.startswith("begin ")]
    assert [line for line in begun[:8] if "few" in line] == ["begin few 0", "begin few 1", "begin few 2"]


def test_job_that_nobody_was_told_of_is_found(desk: Desk) -> None:
    job_id = desk.add("a")
    desk.place.look()
    desk.wait(job_id, JobState.DONE)


def test_job_is_claimed_by_one_of_many(desk: Desk) -> None:
    """Eight runners at once, each in a transaction of its own: the database sees to it that none is run twice."""
    ids: list[str] = []
    for tenant in range(3):
        with desk.place.database.write() as connection:
            namespace = namespaces.open_for_write(connection, Scope(tenant=f"{desk.scope.tenant}-{tenant}"))
            ids += [JobRepository(connection, namespace.id).add("claimed here", {}) for _ in range(20)]
    claimed: list[str] = []

    def work() -> None:
        while True:
            with desk.place.database.write() as connection:
                lease = claim(connection, ["claimed here"])
            if lease is None:
                return
            claimed.append(lease.job_id)

    with ThreadPoolExecutor(8) as pool:
        for one in [pool.submit(work) for _ in range(8)]:
            one.result()
    assert sorted(claimed) == sorted(ids)


# ------------------------------------------------------------ the broker


@pytest.mark.parametrize("running", ["celery"], indirect=True)
def test_broker_dies_and_comes_back(desk: Desk, broker: tuple[Any, str]) -> None:
    """Redis forgets every message and is away while a job is queued; workers find it again, and the sweep the job."""
    desk.wait(desk.submit("before"), JobState.DONE)
    broker[0].kill()
    while_away = desk.submit("while away")
    broker[0].start()
    desk.place.look()
    desk.wait(while_away, JobState.DONE)
    desk.wait(desk.submit("after"), JobState.DONE)


def test_broker_that_is_not_there_fails_no_write(
    postgres_database: str, free_port: int, tmp_path: Path, embedder: Embedder
) -> None:
    broker = f"redis://127.0.0.1:{free_port}/0"
    settings = Settings(home=tmp_path, database_url=postgres_database, broker_url=broker, notes="offline")
    others = set(threading.enumerate())  # of stores that other tests keep open
    with MemoryOS(settings, embedder) as engine:
        (cube,) = engine.store_many(Scope(), [{"text": "Ann adopted a cat"}])
        (job,) = engine.jobs(Scope())
        assert (job.task, job.state) == ("notes", "queued")
        engine.forget("default", cube.id)
        begun = {thread.name for thread in set(threading.enumerate()) - others}
        assert begun.isdisjoint(("memos-jobs", "memos-notes"))


def test_messages_hold_ids_and_nothing_else(
    postgres_database: str, redis_url: str, tmp_path: Path, embedder: Embedder
) -> None:
    url = redis_url.removesuffix("0") + "1"
    settings = Settings(home=tmp_path, database_url=postgres_database, broker_url=url, notes="offline")
    with MemoryOS(settings, embedder) as engine:
        engine.store_many(Scope(user_id="u"), [{"text": "Ann adopted a quokka"}])
        (job,) = engine.jobs(Scope(user_id="u"))
    with redis.Redis.from_url(url) as client:
        (message,) = client.lrange(JOBS, 0, -1)
        client.flushdb()
    assert b"quokka" not in message
    body = base64.b64decode(json.loads(message)["body"])
    assert json.loads(body)[:2] == [["default", "u", job.id], {}]
    assert b"quokka" not in body


def test_broker_needs_a_database_that_workers_can_open(tmp_path: Path, embedder: Embedder) -> None:
    with pytest.raises(InvalidInput, match="MEMOS_DATABASE_URL"):
        MemoryOS(Settings(home=tmp_path, broker_url="redis://127.0.0.1/0"), embedder)
    MemoryOS(Settings(home=tmp_path), embedder).close()


def test_claim_reads_few_rows_of_a_long_queue(postgres_database: str) -> None:
    """Whatever the planner thinks of it: a backlog must not make claims slower."""
    with closing(Database(postgres_database)) as database, database.write() as connection:
        namespace = namespaces.open_for_write(connection, Scope())
        JobRepository(connection, namespace.id).add("work", {})
        copy = "jsonb_populate_record(jobs, jsonb_build_object('id', lpad(n::text, 36, '0')))"
        connection.execute(sa.text(f"INSERT INTO jobs SELECT ({copy}).* FROM jobs, generate_series(1, 3000) n"))
        statement = scoped._TURNS.params(now=now_us(), tasks=["work"], after="")
        how = {"literal_binds": True, "render_postcompile": True}
        asked = statement.compile(dialect=connection.dialect, compile_kwargs=how)
        plan = connection.scalar(sa.text(f"EXPLAIN (ANALYZE, FORMAT JSON) {asked}"))
    assert sum(rows_read(plan[0]["Plan"])) < 50


def rows_read(node: dict[str, Any]) -> Iterator[float]:
    """Yield what each node of a plan returned."""
    yield node["Actual Rows"] * node["Actual Loops"]
    for inner in node.get("Plans", ()):
        yield from rows_read(inner)
