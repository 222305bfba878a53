"""Durable jobs, within one namespace: a queue carries their ids, these rows carry the truth (design §8)."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, and_, func, or_

from memos.clock import from_us, now_us
from memos.cube import Frozen
from memos.ids import new_id
from memos.store.schema import jobs
from memos.store.scoped import ScopedRepository

LEASE_US = 600_000_000
#: The task that writes the notes of a namespace that wait.
NOTES = "notes"


class JobState(StrEnum):
    """Where a job stands; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})


class Job(Frozen):
    """A piece of work that outlives the process. ``progress`` runs from 0 to 1.

    ``result`` is there when it is done, ``error`` (code and message of :mod:`memos.errors`) when it failed.
    """

    id: str
    user_id: str
    task: str
    state: JobState
    progress: float
    result: dict[str, Any] | None = None
    error: str | None = None
    attempts: int
    created_at: datetime
    updated_at: datetime


class JobRepository(ScopedRepository):
    """Reads and writes the jobs of one namespace."""

    def add(self, task: str, payload: dict[str, Any]) -> str:
        """Queue a job in the transaction that asks for it; return its id."""
        now = now_us()
        row = {
            "id": new_id(),
            "task": task,
            "state": JobState.QUEUED.value,
            "payload": payload,
            "progress": 0.0,
            "priority": 0,
            "attempts": 0,
            "max_attempts": 3,
            "run_after": now,
            "created_at": now,
            "updated_at": now,
        }
        self._insert(jobs, [row])
        return str(row["id"])

    def ensure(self, task: str) -> str:
        """Return the id of a queued job that works off whatever waits, queued now unless there was one.

        Whoever queued one may be gone, so it is submitted again. Earlier ones that are done go.
        """
        of_task = self._select(jobs, jobs.c.id).where(jobs.c.task == task, jobs.c.state == JobState.QUEUED.value)
        queued = self.connection.scalar(of_task)
        if queued is not None:
            return str(queued)
        done = self._delete(jobs).where(jobs.c.task == task, jobs.c.state == JobState.DONE.value)
        self.connection.execute(done)
        return self.add(task, {})

    def get(self, job_id: str, user_id: str) -> Job | None:
        """Return one job."""
        row = self.connection.execute(self._select(jobs).where(jobs.c.id == job_id)).first()
        return None if row is None else _job(row, user_id)

    def take(self, job_id: str, owner: str) -> tuple[str, dict[str, Any]] | None:
        """Lease a job that waits, or whose last runner died; return its task and payload, ``None`` if it is not free.

        A job taken for the ``max_attempts + 1``-th time killed its runner each time before; it fails instead.
        """
        now = now_us()
        abandoned = and_(jobs.c.state == JobState.RUNNING.value, jobs.c.lease_until < now)
        free = or_(jobs.c.state == JobState.QUEUED.value, abandoned, jobs.c.lease_owner == owner)
        statement = (
            self._update(jobs)
            .where(jobs.c.id == job_id, free, jobs.c.state.not_in([state.value for state in FINAL]))
            .values(
                state=JobState.RUNNING.value,
                attempts=jobs.c.attempts + 1,
                lease_owner=owner,
                lease_until=now + LEASE_US,
                updated_at=now,
            )
            .returning(jobs.c.task, jobs.c.payload, jobs.c.attempts, jobs.c.max_attempts)
        )
        row = self.connection.execute(statement).first()
        if row is None:
            return None
        if row.attempts > row.max_attempts:
            self.finish(job_id, JobState.FAILED, error=f"given up after {row.max_attempts} attempts")
            return None
        return row.task, row.payload

    def report(self, job_id: str, progress: float) -> None:
        """Record progress, and keep the lease."""
        now = now_us()
        self._set(job_id, progress=progress, lease_until=now + LEASE_US, updated_at=now)

    def give_back(self, job_id: str) -> None:
        """Queue a job again whose runner has to stop; the attempt does not count."""
        self._set(
            job_id,
            state=JobState.QUEUED.value,
            attempts=jobs.c.attempts - 1,
            lease_owner=None,
            lease_until=None,
            updated_at=now_us(),
        )

    def let_go(self) -> None:
        """Queue again whatever was running: in a restored namespace its runner is not of this store."""
        running = self._update(jobs).where(jobs.c.state == JobState.RUNNING.value)
        values = {"state": JobState.QUEUED.value, "lease_owner": None, "lease_until": None}
        self.connection.execute(running.values(**values))

    def finish(
        self, job_id: str, state: JobState, *, result: dict[str, Any] | None = None, error: str | None = None
    ) -> None:
        """Record how a job ended."""
        progress = {"progress": 1.0} if state is JobState.DONE else {}
        self._set(
            job_id,
            state=state.value,
            result=result,
            error=error,
            lease_owner=None,
            lease_until=None,
            updated_at=now_us(),
            **progress,
        )

    def unfinished(self) -> int:
        """Return how many jobs a user asked for wait or run; notes are the engine's own affair."""
        waits = jobs.c.state.in_((JobState.QUEUED.value, JobState.RUNNING.value))
        statement = self._select(jobs, func.count()).where(waits, jobs.c.task != NOTES)
        return int(self.connection.scalar(statement) or 0)

    def clear(self) -> int:
        """Remove every job; return how many."""
        return int(self.connection.execute(self._delete(jobs)).rowcount)

    def _set(self, job_id: str, **values: Any) -> None:
        self.connection.execute(self._update(jobs).where(jobs.c.id == job_id).values(**values))


def _job(row: Row[Any], user_id: str) -> Job:
    return Job(
        id=row.id,
        user_id=user_id,
        task=row.task,
        state=JobState(row.state),
        progress=row.progress,
        result=row.result,
        error=row.error,
        attempts=row.attempts,
        created_at=from_us(row.created_at),
        updated_at=from_us(row.updated_at),
    )
