"""The in-process executor: one thread that works off durable jobs, for stores without Celery workers.

take -> run -> finish; a job whose process stops goes back to the queue and is run again from the start.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

from memos.cube import Scope
from memos.errors import MemosError, StoreError
from memos.ids import new_id
from memos.store import namespaces
from memos.store.database import Database
from memos.store.jobs import JobRepository, JobState
from memos.store.scoped import unfinished_jobs

logger = logging.getLogger(__name__)

#: The name under which the one process of an embedded store leases: its jobs are its own again after a crash.
EMBEDDED = "embedded"

Report = Callable[[float], None]
#: A task takes the scope, its payload and where to report progress, and returns its result as plain data. It must be
#: safe to run twice: a runner can die after the work and before the record of it.
Task = Callable[[Scope, Mapping[str, Any], Report], dict[str, Any]]


class Interrupted(BaseException):
    """The executor stops: raised inside a running task where it reports progress. Not an error, hence the base."""


class Executor:
    """Runs the jobs of one process, one after another. The thread starts with the first job."""

    def __init__(self, database: Database, tasks: Mapping[str, Task], name: str = "memos-jobs") -> None:
        self._database = database
        self._name = name
        self._tasks = tasks
        self._owner = EMBEDDED if database.is_sqlite else new_id()
        self._waiting: queue.SimpleQueue[tuple[Scope, str] | None] = queue.SimpleQueue()
        self._submitted: set[str] = set()
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, scope: Scope, job_id: str) -> None:
        """Run a job that is already a row of its namespace; one that waits here already needs no second turn."""
        with self._starting:
            if job_id not in self._submitted:
                self._submitted.add(job_id)
                self._waiting.put((scope, job_id))
            self._start()

    def recover(self, scopes: Collection[Scope] | None = None) -> None:
        """Queue what an earlier process left unfinished, or what was restored unfinished, of some users if named."""
        with self._database.read() as connection:
            left = unfinished_jobs(connection, self._tasks.keys())
        for scope, job_id in left:
            if scopes is None or scope in scopes:
                self.submit(scope, job_id)

    def stop(self) -> None:
        """Give the running job back to the queue at its next report, and end the thread."""
        self._stopping.set()
        self._waiting.put(None)
        with self._starting:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _start(self) -> None:
        if self._thread is None and not self._stopping.is_set():
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()

    def _work(self) -> None:
        try:
            while not self._stopping.is_set() and (item := self._waiting.get()) is not None:
                with self._starting:
                    self._submitted.discard(item[1])
                self._attempt(*item)
        finally:  # a mistake in a task ends its thread, loudly; the jobs behind it get another
            with self._starting:
                self._thread = None
                if not self._waiting.empty():
                    self._start()

    def _attempt(self, scope: Scope, job_id: str) -> None:
        try:
            self._run(scope, job_id)
        except StoreError as error:  # the store cannot be reached: the row stays and is found at the next start
            logger.warning("job %s could not be recorded: %s", job_id, error)

    def _run(self, scope: Scope, job_id: str) -> None:
        with self._database.write() as connection:
            repository = self._repository(connection, scope)
            taken = repository.take(job_id, self._owner) if repository else None
        if taken is None:
            return  # somebody else has it, it is over, or its user was forgotten
        task, payload = taken
        try:
            result = self._tasks[task](scope, payload, lambda done: self._report(scope, job_id, done))
        except Interrupted:
            self._change(scope, lambda jobs: jobs.give_back(job_id))
        except MemosError as error:
            message = f"{error.code}: {error.message}"
            self._change(scope, lambda jobs: jobs.finish(job_id, JobState.FAILED, error=message))
        except BaseException:
            self._change(scope, lambda jobs: jobs.finish(job_id, JobState.FAILED, error="internal-error: see the log"))
            raise
        else:
            self._change(scope, lambda jobs: jobs.finish(job_id, JobState.DONE, result=result))

    def _report(self, scope: Scope, job_id: str, progress: float) -> None:
        if self._stopping.is_set():
            raise Interrupted
        self._change(scope, lambda jobs: jobs.report(job_id, progress))

    def _change(self, scope: Scope, change: Callable[[JobRepository], None]) -> None:
        with self._database.write() as connection:
            repository = self._repository(connection, scope)
            if repository is not None:
                change(repository)

    @staticmethod
    def _repository(connection: Any, scope: Scope) -> JobRepository | None:
        namespace = namespaces.find(connection, scope)
        return None if namespace is None else JobRepository(connection, namespace.id)
