"""The in-process executor against a real store: jobs end, fail, stop and come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from memos.cube import Scope
from memos.errors import StoreFull
from memos.schedule.executor import Executor
from memos.schedule.task import Report, Task
from memos.store import namespaces
from memos.store.database import Database
from memos.store.jobs import Job, JobRepository, JobState
from memos.store.leases import LeaseRepository

SCOPE = Scope()


@pytest.fixture
def database(tmp_path: Path) -> Any:
    opened = Database(f"sqlite:///{tmp_path / 'memos.db'}")
    yield opened
    opened.close()


def queued(database: Database, task: str = "work", **payload: Any) -> str:
    with database.write() as connection:
        namespace = namespaces.open_for_write(connection, SCOPE)
        return JobRepository(connection, namespace.id).add(task, payload)


def read(database: Database, job_id: str) -> Job:
    with database.read() as connection:
        namespace = namespaces.find(connection, SCOPE)
        assert namespace is not None
        job = JobRepository(connection, namespace.id).get(job_id, SCOPE.user_id)
    assert job is not None
    return job


def finished(database: Database, job_id: str, state: JobState = JobState.DONE) -> Job:
    deadline = time.monotonic() + 30
    while (job := read(database, job_id)).state is not state and time.monotonic() < deadline:
        time.sleep(0.01)
    assert job.state is state, job
    return job


def running(database: Database, task: Task) -> Executor:
    return Executor(database, {"work": task})


def test_job_runs_with_its_payload(database: Database) -> None:
    def work(scope: Scope, payload: Mapping[str, Any], report: Report) -> dict[str, Any]:
        report(0.5)
        return {"doubled": 2 * payload["n"], "user": scope.user_id}

    executor = running(database, work)
    job_id = queued(database, n=21)
    executor.submit(SCOPE, job_id)
    job = finished(database, job_id)
    executor.stop()
    assert (job.result, job.progress, job.attempts) == ({"doubled": 42, "user": "default"}, 1.0, 1)


def test_failed_job_says_why_and_the_next_one_runs(database: Database) -> None:
    def work(scope: Scope, payload: Mapping[str, Any], report: Report) -> dict[str, Any]:
        if payload["bad"]:
            raise StoreFull("no space left")
        return {}

    executor = running(database, work)
    bad, good = queued(database, bad=True), queued(database, bad=False)
    for job_id in (bad, good):
        executor.submit(SCOPE, job_id)
    finished(database, good)
    executor.stop()
    assert read(database, bad).error == "store-full: no space left"


def test_stopped_job_goes_back_and_runs_at_the_next_start(database: Database) -> None:
    started, go_on = threading.Event(), threading.Event()

    def slow(scope: Scope, payload: Mapping[str, Any], report: Report) -> dict[str, Any]:
        started.set()
        go_on.wait(30)
        report(0.5)
        return {"by": "first"}

    first = running(database, slow)
    job_id = queued(database)
    first.submit(SCOPE, job_id)
    started.wait(30)
    threading.Timer(0.05, go_on.set).start()
    first.stop()
    waiting = read(database, job_id)
    assert (waiting.state, waiting.attempts) == (JobState.QUEUED, 0)

    second = running(database, lambda scope, payload, report: {"by": "second"})
    second.start()
    assert finished(database, job_id).result == {"by": "second"}
    second.stop()


def test_job_of_a_dead_process_is_taken_up(database: Database) -> None:
    """The embedded store has one process: what was running before a crash is nobody's, whatever its lease."""
    job_id = queued(database)
    with database.write() as connection:
        namespace = namespaces.open_for_write(connection, SCOPE)
        assert LeaseRepository(connection, namespace.id).take(SCOPE, job_id) is not None
    executor = running(database, lambda scope, payload, report: {})
    executor.start()
    assert finished(database, job_id).attempts == 2
    executor.stop()


def test_job_of_a_forgotten_user_ends_quietly(database: Database) -> None:
    executor = running(database, lambda scope, payload, report: {})
    executor.submit(Scope(user_id="gone"), "01900000-0000-7000-8000-000000000000")
    job_id = queued(database)
    executor.submit(SCOPE, job_id)
    finished(database, job_id)
    executor.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the mistake is to be seen
def test_mistake_in_a_task_fails_its_job_and_not_the_next(database: Database) -> None:
    def work(scope: Scope, payload: Mapping[str, Any], report: Report) -> dict[str, Any]:
        if payload["bad"]:
            raise ZeroDivisionError
        return {}

    executor = running(database, work)
    bad = queued(database, bad=True)
    behind, later = queued(database, bad=False), queued(database, bad=False)
    executor.submit(SCOPE, bad)
    executor.submit(SCOPE, behind)
    finished(database, behind)
    executor.submit(SCOPE, later)
    finished(database, later)
    executor.stop()
    assert (read(database, bad).error or "").startswith("internal-error")
