"""Durable jobs, within one namespace: a queue carries their ids, these rows carry the truth (design §8).

This is what those see who want work done; :mod:`memos.store.leases` is what those see who do it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, func

from memos.clock import from_us, now_us
from memos.cube import Frozen
from memos.errors import Conflict
from memos.ids import ids_in, new_id
from memos.store import namespaces
from memos.store.job_totals import count_ended
from memos.store.schema import jobs
from memos.store.scoped import ScopedRepository

#: The task that makes a KV file.
PROMOTE = "promote"
#: The task that trains adapters.
DISTIL = "distil"
#: The task that writes the notes of a namespace that wait.
NOTES = "notes"
#: The tasks that make one memory, and one adapter, of several.
FUSE, FUSE_ADAPTERS = "fuse", "fuse_adapters"
#: Notes come first: they take a moment, and what is stored is recalled better with them.
PRIORITIES = {NOTES: 10}
#: How often a job is run at most: after failures that may pass, and after deaths of the process that ran it.
MAX_ATTEMPTS = 5


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

    ``result`` is there when it is done, ``error`` (code and message of :mod:`memos.errors`) when it failed, or failed
    and will be tried again after ``run_after``. ``cancelling``: its runner was asked to end it. Of a tenant's jobs that
    of the highest ``priority`` is run first.
    """

    id: str
    user_id: str
    task: str
    state: JobState
    progress: float
    result: dict[str, Any] | None = None
    error: str | None = None
    attempts: int
    priority: int
    cancelling: bool
    run_after: datetime
    created_at: datetime
    updated_at: datetime


class JobRepository(ScopedRepository):
    """Reads and writes the jobs of one namespace."""

    def add(self, task: str, payload: dict[str, Any], *, priority: int | None = None) -> str:
        """Queue a job in the transaction that asks for it; return its id."""
        now = now_us()
        row = {
            "id": new_id(),
            "tenant": namespaces.tenant_of(self.connection, self.namespace_id),
            "task": task,
            "state": JobState.QUEUED.value,
            "payload": payload,
            "progress": 0.0,
            "priority": PRIORITIES.get(task, 0) if priority is None else priority,
            "attempts": 0,
            "max_attempts": MAX_ATTEMPTS,
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

    def page(self, user_id: str, state: JobState | None, limit: int, after: str | None) -> Sequence[Job]:
        """Return jobs (in one state, if given), newest first, beginning behind the id ``after``."""
        statement = self._select(jobs).order_by(jobs.c.id.desc()).limit(limit)
        if state is not None:
            statement = statement.where(jobs.c.state == state.value)
        if after is not None:
            statement = statement.where(jobs.c.id < after)
        return [_job(row, user_id) for row in self.connection.execute(statement)]

    def cancel(self, job_id: str) -> None:
        """Cancel a job that waits; ask the runner of one that is running to end it.

        Raises :class:`Conflict` if it is over, unless it was cancelled.
        """
        task = self._change(job_id, JobState.QUEUED, state=JobState.CANCELLED.value)
        if task is not None:
            count_ended(self.connection, task, JobState.CANCELLED.value)
        elif self._change(job_id, JobState.RUNNING, cancelling=True) is None:
            self._check(job_id, JobState.CANCELLED)

    def retry(self, job_id: str) -> None:
        """Queue a job again that failed or was cancelled, with all its attempts.

        Raises :class:`Conflict` if it is done or running.
        """
        anew = {"attempts": 0, "progress": 0.0, "error": None, "cancelling": False, "run_after": now_us()}
        over = self._change(job_id, JobState.FAILED, JobState.CANCELLED, state=JobState.QUEUED.value, **anew)
        if over is None:
            self._check(job_id, JobState.QUEUED)

    def let_go(self) -> None:
        """Queue again whatever was running: in a restored namespace its runner is not of this store."""
        running = self._update(jobs).where(jobs.c.state == JobState.RUNNING.value)
        values = {"state": JobState.QUEUED.value, "lease_owner": None, "lease_until": None}
        self.connection.execute(running.values(**values))

    def unfinished(self) -> int:
        """Return how many jobs a user asked for wait or run; notes are the engine's own affair."""
        waits = jobs.c.state.in_((JobState.QUEUED.value, JobState.RUNNING.value))
        statement = self._select(jobs, func.count()).where(waits, jobs.c.task != NOTES)
        return int(self.connection.scalar(statement) or 0)

    def remove(self, job_ids: Sequence[str]) -> None:
        """Remove some jobs."""
        self.connection.execute(self._delete(jobs).where(jobs.c.id.in_(job_ids)))

    def forget(self, cube_ids: Collection[str]) -> tuple[int, bool]:
        """Take cubes out of what jobs are to do, and out of what they came to; one left without any is cancelled.

        Returns how many jobs that were, and whether one of them is under way. Notes are no such job: whoever writes
        them looks again, when it is done, at what is there still.
        """
        gone, changed, under_way = set(cube_ids), 0, False
        cancelled: list[str] = []
        for row in self.connection.execute(self._select(jobs)).all():
            if gone.isdisjoint(ids_in(json.dumps([row.payload, row.result]))):
                continue
            left = [cube_id for cube_id in row.payload.get("ids", ()) if cube_id not in gone]
            ends = {} if left or row.state in FINAL else _ended(row.state)
            change = self._update(jobs).where(jobs.c.id == row.id)
            self.connection.execute(change.values(payload={**row.payload, "ids": left}, result=None, **ends))
            cancelled += [row.task] if "state" in ends else []
            changed += 1
            under_way |= row.state == JobState.RUNNING and row.task != NOTES
        for task in cancelled:  # last: runners hold the rows of their jobs while they wait to count
            count_ended(self.connection, task, JobState.CANCELLED.value)
        return changed, under_way

    def leased_since(self, before: int) -> int:
        """Return how many jobs, other than notes, somebody works at who began before a moment (microseconds)."""
        leased = self._select(jobs, func.count()).where(jobs.c.lease_until > now_us(), jobs.c.task != NOTES)
        return self.connection.scalar(leased.where(jobs.c.created_at < before)) or 0

    def naming(self, cube_ids: Collection[str]) -> int:
        """Return how many jobs name one of some cubes in what they are to do or came to."""
        asked = set(cube_ids)
        rows = self.connection.execute(self._select(jobs, jobs.c.payload, jobs.c.result))
        return sum(not asked.isdisjoint(ids_in(json.dumps([row.payload, row.result]))) for row in rows)

    def clear(self) -> int:
        """Remove every job; return how many."""
        return int(self.connection.execute(self._delete(jobs)).rowcount)

    def _change(self, job_id: str, *states: JobState, **values: Any) -> str | None:
        """Write values into a job that is in one of these states; return its task, ``None`` if it is in none."""
        one = self._update(jobs).where(jobs.c.id == job_id, jobs.c.state.in_([state.value for state in states]))
        task: str | None = self.connection.scalar(one.values(updated_at=now_us(), **values).returning(jobs.c.task))
        return task

    def _check(self, job_id: str, fine: JobState) -> None:
        state = self.connection.scalar(self._select(jobs, jobs.c.state).where(jobs.c.id == job_id))
        if state not in (None, fine.value):
            raise Conflict(f"job {job_id!r} is {state}")


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
        priority=row.priority,
        cancelling=row.cancelling,
        run_after=from_us(row.run_after),
        created_at=from_us(row.created_at),
        updated_at=from_us(row.updated_at),
    )


def _ended(state: str) -> dict[str, Any]:
    """Return how a job ends that has nothing left to do: one that is running by its runner, at its next report."""
    return {"cancelling": True} if state == JobState.RUNNING else {"state": JobState.CANCELLED.value}
