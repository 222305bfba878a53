"""Running a durable job: whose turn it is, the lease of whoever runs it, and how it ends.

A lease is kept up while its holder lives. One that ended lets another runner take the job, and whatever its late holder
still says about the job is not heard.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, func

from memos.clock import now_us
from memos.cube import Scope
from memos.ids import is_id, new_id
from memos.store import namespaces
from memos.store.cubes import CubeRepository
from memos.store.job_totals import count_ended
from memos.store.jobs import FINAL, JobState
from memos.store.schema import jobs
from memos.store.scoped import ScopedRepository, next_job

#: How long a job is left to a runner of which nothing is heard.
LEASE_US = 60_000_000


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to run a job, given to one runner once: ``owner`` names this right, ``attempt`` counts from 1."""

    scope: Scope
    namespace_id: int
    job_id: str
    owner: str
    task: str
    payload: Mapping[str, Any]
    attempt: int
    most: int


class Standing(StrEnum):
    """What a runner is told where it reports: go on, end the job, or leave it alone, since another may have it."""

    HELD = "held"
    CANCELLED = "cancelled"
    LOST = "lost"


class LeaseRepository(ScopedRepository):
    """What runners write into the jobs of one namespace."""

    _TAKE = (
        ScopedRepository._prepared_update(jobs)
        .where(jobs.c.id == bindparam("job"), jobs.c.state == JobState.QUEUED.value)
        .values(
            state=JobState.RUNNING.value,
            attempts=jobs.c.attempts + 1,
            lease_owner=bindparam("holder"),
            lease_until=bindparam("until"),
            updated_at=bindparam("now"),
        )
        .returning(jobs.c.task, jobs.c.payload, jobs.c.attempts, jobs.c.max_attempts)
    )

    _HELD = ScopedRepository._prepared_update(jobs).where(
        jobs.c.id == bindparam("job"),
        jobs.c.lease_owner == bindparam("holder"),
        jobs.c.state == JobState.RUNNING.value,
    )

    _KEEP = _HELD.values(
        lease_until=bindparam("until"), progress=func.coalesce(bindparam("done"), jobs.c.progress)
    ).returning(jobs.c.cancelling)

    _END = _HELD.values(
        state=bindparam("ending"),
        result=bindparam("outcome", type_=jobs.c.result.type),
        error=bindparam("failure"),
        progress=func.coalesce(bindparam("done"), jobs.c.progress),
        lease_owner=None,
        lease_until=None,
        updated_at=bindparam("now"),
    ).returning(jobs.c.task)

    def take(self, scope: Scope, job_id: str, lease_us: int = LEASE_US) -> Lease | None:
        """Lease a job that waits; ``None`` if it does not."""
        now, owner = now_us(), new_id()
        row = self._run(self._TAKE, job=job_id, holder=owner, until=now + lease_us, now=now).first()
        if row is None:
            return None
        return Lease(scope, self.namespace_id, job_id, owner, row.task, row.payload, row.attempts, row.max_attempts)

    def keep(self, lease: Lease, progress: float | None = None, lease_us: int = LEASE_US) -> Standing:
        """Extend a lease, and record progress if there is any."""
        until = now_us() + lease_us
        cancelling = self._run(self._KEEP, job=lease.job_id, holder=lease.owner, until=until, done=progress).scalar()
        if cancelling is None:
            return Standing.LOST
        return Standing.CANCELLED if cancelling else Standing.HELD

    def end(
        self, lease: Lease, state: JobState, *, result: dict[str, Any] | None = None, error: str | None = None
    ) -> None:
        """Record how a job ended, if that is still the holder's to say.

        A result that names what was forgotten in the meantime is not kept.
        """
        if result is not None and self._outdated(result):
            result = None
        done = 1.0 if state is JobState.DONE else None
        values = {"ending": state.value, "outcome": result, "failure": error, "done": done, "now": now_us()}
        task = self._run(self._END, job=lease.job_id, holder=lease.owner, **values).scalar()
        if task is not None:
            count_ended(self.connection, task, state.value)

    def _outdated(self, result: Mapping[str, Any]) -> bool:
        """Whether a result names a cube that is gone. A deletion that comes later takes it out of the result itself."""
        values = [one for value in result.values() for one in (value if isinstance(value, list) else [value])]
        named = sorted({one for one in values if is_id(one)})
        if not named:
            return False
        namespaces.lock(self.connection, self.namespace_id)
        return len(CubeRepository(self.connection, self.namespace_id).existing(named)) < len(named)

    def give_back(self, lease: Lease) -> None:
        """Queue a job again whose runner has to stop; the attempt does not count."""
        self._back(_held(lease), attempts=jobs.c.attempts - 1)

    def put_off(self, lease: Lease, delay_us: int, error: str) -> None:
        """Queue a job again that failed for a reason that may pass."""
        self._back(_held(lease), run_after=now_us() + delay_us, error=error)

    def release(self, job_id: str, before: int) -> None:
        """Queue a job again whose lease ended before a time, or give it up if it had all its attempts."""
        lost = and_(jobs.c.id == job_id, jobs.c.lease_until < before)
        spent = and_(lost, jobs.c.attempts >= jobs.c.max_attempts, ~jobs.c.cancelling)
        error = "given up: the process that ran it ended each time"
        if not self._moved(spent, JobState.FAILED, error=error):
            self._back(lost)

    def _back(self, which: ColumnElement[bool], **values: Any) -> None:
        """Queue a job again, or cancel it where that is wished."""
        if not self._moved(and_(which, jobs.c.cancelling), JobState.CANCELLED):
            self._moved(which, JobState.QUEUED, **values)

    def _moved(self, which: ColumnElement[bool], state: JobState, **values: Any) -> bool:
        """Take a running job from its runner, if it is one of ``which``."""
        free = {"lease_owner": None, "lease_until": None, "updated_at": now_us()}
        statement = self._update(jobs).where(which, jobs.c.state == JobState.RUNNING.value)
        task = self.connection.scalar(statement.values(state=state.value, **free, **values).returning(jobs.c.task))
        if task is not None and state in FINAL:
            count_ended(self.connection, task, state.value)
        return task is not None


def claim(connection: Connection, tasks: Collection[str], after: str = "", lease_us: int = LEASE_US) -> Lease | None:
    """Lease the job that is to be run next, of these tasks; ``None`` if none is due.

    Whose turn it is, :func:`memos.store.scoped.next_job` tells. Any number of processes may do this at once.
    """
    found = next_job(connection, tasks, after)
    if found is None:
        return None
    scope, job_id, namespace_id = found
    return LeaseRepository(connection, namespace_id).take(scope, job_id, lease_us)


def _held(lease: Lease) -> ColumnElement[bool]:
    return and_(jobs.c.id == lease.job_id, jobs.c.lease_owner == lease.owner)
