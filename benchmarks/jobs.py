"""What a job costs beside its work: queued jobs that do nothing, worked off in order of priority.

in process  one thread on SQLite: wall time of the drain / jobs; beside it bare sqlite3 that claims and ends rows by
            primary key, two transactions each that do not wait for the disk either
celery      a worker of one thread on PostgreSQL and Redis, all on this machine; beside it Celery alone, whose task does
            nothing at all
order       jobs that ran before one of a higher priority of their tenant, of the in-process drain
"""

from __future__ import annotations

import importlib.util
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from harness import ROOT, Report, parser, table

from memos.config import Settings
from memos.cube import Scope
from memos.engine import MemoryOS
from memos.schedule.celery_queue import CeleryQueue, make_app
from memos.schedule.executor import Executor
from memos.schedule.task import Report as Tell
from memos.store import namespaces
from memos.store.database import Database
from memos.store.jobs import JobRepository
from memos.store.scoped import unfinished_jobs
from memos_workers.tasks import make_worker_app
from memos_workers.worker import Worker

PRIORITIES = 5
BARE = "memos.bench"


def nothing(scope: Scope, payload: Mapping[str, Any], report: Tell) -> dict[str, Any]:
    """Do nothing."""
    return {}


def main() -> int:
    """Measure both."""
    arguments = parser(__doc__ or "").parse_args()
    report = Report("jobs", arguments)
    count, over_celery = (1_000, 300) if arguments.quick else (10_000, 3_000)
    with tempfile.TemporaryDirectory() as folder:
        for tenants in (1, 100):
            _in_process(report, Path(folder) / f"{tenants}.db", count, tenants)
        _bare_sqlite(report, Path(folder) / "bare.db", count)
        _celery(report, Path(folder), over_celery)
    table(report.rows)
    report.finish()
    return 0


def _queue(database: Database, count: int, tenants: int) -> list[tuple[Scope, str]]:
    """Queue jobs of random priorities."""
    dice = random.Random(7)
    made: list[tuple[Scope, str]] = []
    for tenant in range(tenants):
        scope = Scope(tenant=f"tenant-{tenant}")
        with database.write() as connection:
            jobs = JobRepository(connection, namespaces.open_for_write(connection, scope).id)
            wanted = [dice.randrange(PRIORITIES) for _ in range(count // tenants)]
            made += [(scope, jobs.add("nothing", {}, priority=priority)) for priority in wanted]
    return made


def _wait(database: Database) -> None:
    left = True
    while left:
        time.sleep(0.05)
        with database.read() as connection:
            left = bool(unfinished_jobs(connection))


def _told(report: Report, how: str, count: int, seconds: float, **more: Any) -> float:
    milliseconds = 1e3 * seconds / count
    report.rows.append({"how": how, "jobs": count, "seconds": seconds, "ms per job": milliseconds, **more})
    return milliseconds


# ---------------------------------------------------------------- in process


def _in_process(report: Report, file: Path, count: int, tenants: int) -> None:
    database = Database(f"sqlite:///{file}")
    made = _queue(database, count, tenants)
    ran: list[tuple[str, int]] = []

    def note(scope: Scope, payload: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
        ran.append((scope.tenant, payload["priority"]))
        return {}

    with database.write() as connection:  # each job knows its priority, to tell it as it runs
        connection.exec_driver_sql("UPDATE jobs SET payload = json_object('priority', priority)")
    executor = Executor(database, {"nothing": note})
    begun = time.perf_counter()
    executor.submit(*made[0])
    while len(ran) < count:
        time.sleep(0.01)
    _wait(database)
    cost = _told(report, f"in process, SQLite, {tenants} tenants", count, time.perf_counter() - begun)
    executor.stop()
    database.close()
    if tenants == 1:
        report.figures["job_overhead_ms_in_process"] = cost
    key = "jobs_out_of_order"
    report.figures[key] = (report.figures.get(key) or 0) + _out_of_order(ran)


def _out_of_order(ran: list[tuple[str, int]]) -> int:
    """Return how many jobs ran after one of a lower priority of the same tenant."""
    lowest: dict[str, int] = {}
    late = 0
    for tenant, priority in ran:
        late += priority > lowest.get(tenant, PRIORITIES)
        lowest[tenant] = min(priority, lowest.get(tenant, PRIORITIES))
    return late


def _bare_sqlite(report: Report, file: Path, count: int) -> None:
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, state TEXT)")
    connection.executemany("INSERT INTO jobs VALUES (?, 'queued')", [(number,) for number in range(count)])
    begun = time.perf_counter()
    for number in range(count):
        for state in ("running", "done"):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE jobs SET state = ? WHERE id = ?", (state, number))
            connection.execute("COMMIT")
    _told(report, "two bare transactions, sqlite3", count, time.perf_counter() - begun)
    connection.close()


# ---------------------------------------------------------------- over Celery


def _celery(report: Report, folder: Path, count: int) -> None:
    servers = _servers()
    with ExitStack() as running:
        postgres = running.enter_context(_postgres(servers, folder))
        port = running.enter_context(
            servers.serve(
                servers.redis_command, lambda port: servers.redis_answers(servers.broker_url(port)), folder / "redis"
            )
        )
        broker = servers.broker_url(port)
        database = Database(postgres)
        made = _queue(database, count, 1)
        queue = CeleryQueue(broker)
        for scope, job_id in made:
            queue.submit(scope, job_id)
        queue.stop()
        bare = make_app(broker)
        for _ in range(count):
            bare.send_task(BARE, args=("tenant", "user", "job"), queue=BARE)
        with _worker(broker, postgres, folder):
            _ready(database, lambda: len(made) - _left(database))
            begun, left = time.perf_counter(), _left(database)
            _wait(database)
            seconds = time.perf_counter() - begun
        report.figures["job_overhead_ms_celery"] = _told(report, "Celery, PostgreSQL, Redis", left, seconds)
        file = folder / "bare"
        with _worker(broker, postgres, folder, "-Q", BARE, MEMOS_HOME=str(file)):
            _ready(database, lambda: _size(file))
            begun, already = time.perf_counter(), _size(file)
            while _size(file) < count:
                time.sleep(0.05)
            seconds = time.perf_counter() - begun
        _told(report, "Celery alone, Redis", count - already, seconds)
        bare.close()
        database.close()


def _left(database: Database) -> int:
    with database.read() as connection:
        return len(unfinished_jobs(connection))


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _ready(database: Database, done: Callable[[], int]) -> None:
    """Wait until a worker has begun: what it takes to start is no part of a job."""
    while not done():
        time.sleep(0.01)


def _servers() -> ModuleType:
    """Return the module with which the tests start servers out of wheels."""
    spec = importlib.util.spec_from_file_location("servers", ROOT / "tests" / "integration" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["servers"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@contextmanager
def _postgres(servers: ModuleType, folder: Path) -> Iterator[str]:
    (folder / "postgres").mkdir()
    (folder / "redis").mkdir()
    cluster = servers.make_cluster(folder / "postgres")
    with servers.serve(cluster.command, cluster.answers, folder / "postgres", cluster.identity) as port:
        yield cluster.url(port)


@contextmanager
def _worker(broker: str, postgres: str, folder: Path, *options: str, **more: str) -> Iterator[None]:
    """Run ``celery -A jobs worker`` with one thread: this file is the module that it loads."""
    environment = {
        **os.environ,
        "MEMOS_BROKER_URL": broker,
        "MEMOS_DATABASE_URL": postgres,
        "MEMOS_HOME": str(folder / "home"),
        "MEMOS_NOTES": "off",
        **more,
    }
    celery = [sys.executable, "-m", "celery", "-A", "jobs", "--workdir", str(Path(__file__).parent), "worker"]
    how = ["--concurrency", "1", "--without-gossip", "--without-mingle", "--loglevel", "error", *options]
    process = subprocess.Popen([*celery, *how], env=environment)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


if __name__ == "__main__":
    sys.exit(main())
elif (settings := Settings()).broker_url is not None:

    def opened() -> MemoryOS:
        """Return an engine that knows the task."""
        engine = MemoryOS(settings)
        engine.tasks["nothing"] = nothing
        return engine

    app = make_worker_app(settings.broker_url, Worker(opened))

    @app.task(name=BARE)
    def bare(*_: str) -> None:
        """Write a byte, to be counted."""
        with settings.home.open("ab") as file:
            file.write(b".")
