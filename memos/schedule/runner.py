"""One job after another: claim -> run -> record. Every executor runs its jobs with this.

A job whose process stops goes back to the queue; one whose process dies is run again when its lease ends.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial

from memos.clock import now_us
from memos.cube import Scope
from memos.errors import MemosError
from memos.schedule.heart import Heart
from memos.schedule.pace import USUAL, Pace
from memos.schedule.retry import MAY_PASS, delay_us
from memos.schedule.task import Cancelled, Interrupted, Superseded, Task
from memos.store.database import Database
from memos.store.jobs import JobState
from memos.store.leases import Lease, LeaseRepository, Standing, claim
from memos.store.scoped import abandoned_jobs, due_jobs, next_due

logger = logging.getLogger(__name__)

#: Writes what became of a job.
Change = Callable[[LeaseRepository, Lease], None]


class Runner:
    """Runs jobs of some tasks in the threads that call it, of any number of them.

    What is written here need not be lasting: a job whose record is lost in a power cut is run again.
    """

    def __init__(self, database: Database, tasks: Mapping[str, Task], pace: Pace = USUAL) -> None:
        self._database = database
        self._tasks = tasks
        self._pace = pace
        self._heart = Heart(database, pace.lease_us)
        self._stopping = threading.Event()
        self._served = ""

    def run(self, most: int | None = None) -> int:
        """Run jobs, each in its turn, until none is due or ``most`` were run; return how many.

        Raises :class:`StoreError` if the store cannot be reached; a job is found again then, when its lease ends. What
        a task raises by mistake is raised, once it is recorded.
        """
        count, lease = 0, self._next()
        while lease is not None:
            change = self._outcome(lease)
            count += 1
            lease = self._next(lease, change, more=most is None or count < most)
        return count

    def release(self, *, everything: bool = False) -> None:
        """Queue again what was left by runners that died; ``everything`` is for a process that knows it is alone."""
        before = 1 << 62 if everything else now_us()
        with self._database.read() as connection:
            abandoned = abandoned_jobs(connection, self._tasks.keys(), before)
        for namespace_id, job_id in abandoned:
            with self._database.write(lasting=False) as connection:
                LeaseRepository(connection, namespace_id).release(job_id, before)

    def due(self, most: int) -> list[tuple[Scope, str]]:
        """Return whose job could be run now, ``most`` at most."""
        with self._database.read() as connection:
            return due_jobs(connection, self._tasks.keys(), most)

    def due_in(self) -> float | None:
        """Return the seconds until a job that is put off may be run, or a lease ends; ``None`` if there is none."""
        with self._database.read() as connection:
            due = next_due(connection, self._tasks.keys())
        return None if due is None else max(0.0, (due - now_us()) / 1e6)

    def stop(self) -> None:
        """Give jobs that are running back to the queue at their next report, and begin none any more."""
        self._stopping.set()

    def close(self) -> None:
        """Let go of the leases, once nothing is running any more."""
        self.stop()
        self._heart.stop()

    # ------------------------------------------------------------ inside

    def _next(self, lease: Lease | None = None, change: Change | None = None, *, more: bool = True) -> Lease | None:
        """Record what became of a job, if there was one, and claim the next, all in one transaction."""
        with self._database.write(lasting=False) as connection:
            if lease is not None and change is not None:
                change(LeaseRepository(connection, lease.namespace_id), lease)
            if not more or self._stopping.is_set():
                return None
            claimed = claim(connection, self._tasks.keys(), self._served, self._pace.lease_us)
        if claimed is not None:
            self._served = claimed.scope.tenant
        return claimed

    def _outcome(self, lease: Lease) -> Change:
        """Run the task of a job; return what is to be recorded."""
        try:
            with self._heart.beating(lease):
                result = self._tasks[lease.task](lease.scope, lease.payload, partial(self._report, lease))
        except Interrupted:
            return LeaseRepository.give_back
        except Cancelled:
            return partial(LeaseRepository.end, state=JobState.CANCELLED)
        except Superseded:
            logger.warning("job %s was left to another runner: its lease ended here", lease.job_id)
            return _nothing
        except MemosError as error:
            return self._failure(lease, error)
        except BaseException:
            failure = partial(LeaseRepository.end, state=JobState.FAILED, error="internal-error: see the log")
            self._next(lease, failure, more=False)
            raise
        return partial(LeaseRepository.end, state=JobState.DONE, result=result)

    def _report(self, lease: Lease, progress: float) -> None:
        if self._stopping.is_set():
            raise Interrupted
        with self._database.write(lasting=False) as connection:
            standing = LeaseRepository(connection, lease.namespace_id).keep(lease, progress, self._pace.lease_us)
        if standing is Standing.CANCELLED:
            raise Cancelled
        if standing is Standing.LOST:
            raise Superseded

    def _failure(self, lease: Lease, error: MemosError) -> Change:
        message = f"{error.code}: {error.message}"
        if isinstance(error, MAY_PASS) and lease.attempt < lease.most:
            delay = delay_us(lease.attempt, self._pace.first_us)
            return partial(LeaseRepository.put_off, delay_us=delay, error=message)
        return partial(LeaseRepository.end, state=JobState.FAILED, error=message)


def _nothing(jobs: LeaseRepository, lease: Lease) -> None:
    """Record nothing."""
