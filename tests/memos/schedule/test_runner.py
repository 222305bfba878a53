"""Leases: kept while their holder lives, lost without harm; whose turn it is; upkeep."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos.config import Settings
from memos.cube import Scope
from memos.errors import StoreFull
from memos.schedule import upkeep as upkeep_module
from memos.schedule.pace import Pace
from memos.schedule.retry import LONGEST_US, delay_us
from memos.schedule.runner import Runner
from memos.schedule.task import Report, Superseded, Task
from memos.schedule.upkeep import Upkeep
from memos.store import namespaces
from memos.store.database import Database
from memos.store.job_totals import ended_jobs
from memos.store.jobs import MAX_ATTEMPTS, NOTES, Job, JobRepository, JobState
from memos.store.leases import Lease, LeaseRepository, claim
from memos.store.scoped import next_due

SCOPE = Scope()
ALWAYS = 1 << 62


@pytest.fixture
def database(tmp_path: Path) -> Any:
    opened = Database(f"sqlite:///{tmp_path / 'memos.db'}")
    yield opened
    opened.close()


@pytest.fixture
def run(database: Database) -> Any:
    """Make runners of one task."""
    made: list[Runner] = []

    def make(task: Task, **how: Any) -> Runner:
        made.append(Runner(database, {"work": task}, **how))
        return made[-1]

    yield make
    for runner in made:
        runner.close()


def queued(database: Database, scope: Scope = SCOPE, priority: int = 0, **payload: Any) -> str:
    with database.write() as connection:
        namespace = namespaces.open_for_write(connection, scope)
        return JobRepository(connection, namespace.id).add("work", payload, priority=priority)


def change(database: Database, change: Callable[[LeaseRepository], Any]) -> Any:
    with database.write() as connection:
        namespace = namespaces.open_for_write(connection, SCOPE)
        return change(LeaseRepository(connection, namespace.id))


def cancel(database: Database, job_id: str) -> None:
    change(database, lambda jobs: JobRepository(jobs.connection, jobs.namespace_id).cancel(job_id))


def read(database: Database, job_id: str) -> Job:
    found = change(database, lambda jobs: JobRepository(jobs.connection, jobs.namespace_id).get(job_id, "default"))
    assert isinstance(found, Job)
    return found


# ------------------------------------------------------------ leases


def test_silent_job_keeps_its_lease(database: Database, run: Any) -> None:
    """It never reports, and its lease is extended again and again."""

    def silent(scope: Scope, payload: Mapping[str, Any], report: Report) -> dict[str, Any]:
        seen: set[int | None] = set()
        while len(seen) < 4:
            with database.read() as connection:
                seen.add(next_due(connection, ["work"]))
            time.sleep(0.01)
        return {}

    job_id = queued(database)
    assert run(silent, pace=Pace(lease_us=200_000)).run(1)
    assert read(database, job_id).state is JobState.DONE


def test_late_holder_of_a_lease_is_not_heard(database: Database, run: Any) -> None:
    """It goes on after its lease ended and another runner ended the job: neither report nor result count."""
    ended = threading.Event()

    def late(scope: Scope, payload: Mapping[str, Any], report: Report) -> dict[str, Any]:
        change(database, lambda jobs: jobs.release(job_id, ALWAYS))
        assert run(lambda *_: {"by": "another"}).run(1)
        if payload["reports"]:
            with pytest.raises(Superseded):
                report(0.1)
            ended.set()
            report(0.1)
        return {"by": "the late one"}

    for reports in (False, True):
        job_id = queued(database, reports=reports)
        assert run(late).run(1)
        job = read(database, job_id)
        assert (job.state, job.attempts, job.progress, job.result) == (JobState.DONE, 2, 1.0, {"by": "another"})
    assert ended.is_set()
    with database.read() as connection:
        assert ended_jobs(connection) == {("work", "done"): 2}


def test_job_that_kills_its_runner_is_given_up(database: Database) -> None:
    job_id = queued(database)
    for _ in range(MAX_ATTEMPTS):
        assert change(database, lambda jobs: jobs.take(SCOPE, job_id)) is not None
        assert change(database, lambda jobs: jobs.take(SCOPE, job_id)) is None, "it has a holder"
        change(database, lambda jobs: jobs.release(job_id, 0))
        assert read(database, job_id).state is JobState.RUNNING, "the lease has not ended"
        change(database, lambda jobs: jobs.release(job_id, ALWAYS))
    job = read(database, job_id)
    assert (job.state, job.attempts) == (JobState.FAILED, MAX_ATTEMPTS)
    assert (job.error or "").startswith("given up")


@pytest.mark.parametrize("end", ["release", "give_back", "put_off"])
def test_cancelled_job_is_not_queued_again(database: Database, end: str) -> None:
    job_id = queued(database)
    lease: Lease = change(database, lambda jobs: jobs.take(SCOPE, job_id))
    cancel(database, job_id)
    assert read(database, job_id).cancelling
    ways: dict[str, Callable[[LeaseRepository], None]] = {
        "release": lambda jobs: jobs.release(job_id, ALWAYS),
        "give_back": lambda jobs: jobs.give_back(lease),
        "put_off": lambda jobs: jobs.put_off(lease, 0, "away"),
    }
    change(database, ways[end])
    assert read(database, job_id).state is JobState.CANCELLED


@given(st.integers(1, 40))
def test_waits_grow_and_are_bounded(attempt: int) -> None:
    delay, later = delay_us(attempt), delay_us(attempt + 2)
    assert 2_000_000 <= delay <= 1.5 * LONGEST_US
    assert later > delay or later >= LONGEST_US / 2


def test_pace_is_set() -> None:
    assert Pace.of(Settings()) == Pace()
    assert Pace.of(Settings(lease_s=2, retry_s=0.5)) == Pace(lease_us=2_000_000, first_us=500_000)
    assert delay_us(2, first_us=500_000) <= 1.5 * 2_000_000


# ------------------------------------------------------------ turns


def claimed(database: Database, after: str = "") -> str | None:
    with database.write() as connection:
        lease = claim(connection, ["work"], after)
    return None if lease is None else lease.scope.tenant


def test_tenant_with_fewest_running_comes_first(database: Database) -> None:
    for tenant, count in (("a", 5), ("b", 1), ("c", 3)):
        for number in range(count):
            queued(database, Scope(tenant=tenant, user_id=str(number)), priority=number)
    assert "".join(filter(None, (claimed(database) for _ in range(10)))) == "abcacacaa"


def test_turns_go_round(database: Database) -> None:
    for tenant in "abc":
        queued(database, Scope(tenant=tenant))
    assert claimed(database, after="b") == "c"
    assert claimed(database, after="c") == "a"
    assert claimed(database, after="a") == "b"


def test_jobs_of_other_tasks_and_put_off_ones_hide_nothing(database: Database) -> None:
    with database.write() as connection:
        namespace = namespaces.open_for_write(connection, Scope(tenant="a"))
        JobRepository(connection, namespace.id).add("unknown here", {}, priority=9)
    put_off = queued(database, Scope(tenant="b"))
    with database.write() as connection:
        lease = claim(connection, ["work"])
        assert lease is not None
        assert lease.job_id == put_off
        LeaseRepository(connection, lease.namespace_id).put_off(lease, 10**9, "away")
    assert claimed(database) is None
    queued(database, Scope(tenant="b"))
    assert claimed(database) == "b"


def test_notes_of_a_namespace_are_written_by_one_at_a_time(database: Database) -> None:
    for user, count in (("u", 2), ("v", 1)):
        with database.write() as connection:
            namespace = namespaces.open_for_write(connection, Scope(user_id=user))
            for _ in range(count):
                JobRepository(connection, namespace.id).add(NOTES, {})
    with database.write() as connection:
        first, second = (claim(connection, [NOTES]) for _ in range(2))
        assert first is not None
        assert second is not None
        assert (first.scope.user_id, second.scope.user_id) == ("u", "v")
        assert claim(connection, [NOTES]) is None
        LeaseRepository(connection, first.namespace_id).end(first, JobState.DONE)
        assert claim(connection, [NOTES]) is not None


# ------------------------------------------------------------ upkeep


def test_upkeep_drops_old_jobs_and_survives_failures(
    database: Database, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(scope: Scope, payload: Mapping[str, Any], report: Report) -> dict[str, Any]:
        if payload:
            raise StoreFull("no space left")
        return {}

    done, failed, waiting = queued(database), queued(database, fail=True), queued(database)
    runner = run(work)
    assert runner.run(1)
    assert runner.run(1)
    keeping = Upkeep(database)
    keeping.run()
    assert read(database, done).state is JobState.DONE
    seen: list[int] = []

    def fail() -> None:
        raise StoreFull("no space left")

    keeping.work = [fail, *keeping.work, lambda: seen.append(1)]
    monkeypatch.setattr(upkeep_module, "KEEP_US", 0)
    keeping.run()
    assert seen == [1]
    assert change(database, lambda jobs: JobRepository(jobs.connection, jobs.namespace_id).get(done, "default")) is None
    assert (read(database, failed).state, read(database, waiting).state) == (JobState.FAILED, JobState.QUEUED)
