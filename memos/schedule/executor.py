"""The in-process executor: one thread that works off durable jobs, for stores without Celery workers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from memos.cube import Scope
from memos.errors import StoreError
from memos.schedule.pace import USUAL, Pace
from memos.schedule.runner import Runner
from memos.schedule.task import Task
from memos.store.database import Database

logger = logging.getLogger(__name__)

#: Seconds between two looks at a database that other processes write to, and after one at a store that is away.
LOOK_S = 10.0


class Executor:
    """Runs the jobs of one process, one after another, in a thread that starts when there is something to look at."""

    def __init__(
        self, database: Database, tasks: Mapping[str, Task], name: str = "memos-jobs", pace: Pace = USUAL
    ) -> None:
        self._name = name
        self._alone = database.is_sqlite
        self._first = True
        self._runner = Runner(database, tasks, pace)
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Take up what earlier processes, or others now, left unfinished."""
        waits = self._runner.due(1) or self._runner.due_in() is not None
        if waits or not self._alone:
            self._start()

    def submit(self, scope: Scope, job_id: str) -> None:
        """See to it that a job which is a row already is run, when its turn comes."""
        self._woken.set()
        self._start()

    def stop(self) -> None:
        """Give the running job back to the queue at its next report, and end the thread."""
        self._stopping.set()
        self._runner.stop()
        self._woken.set()
        with self._starting:
            thread = self._thread
        if thread is not None:
            thread.join()
        self._runner.close()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()

    def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                self._woken.wait(self._worked_off())
        finally:  # a mistake in a task ends its thread, loudly; the jobs behind it get another
            with self._starting:
                self._thread = None
            self._start()

    def _worked_off(self) -> float | None:
        """Run what is due; return the seconds until more may be, ``None`` for ever."""
        self._woken.clear()
        try:
            self._runner.release(everything=self._alone and self._first)
            self._first = False
            self._runner.run()
            wait = self._runner.due_in()
        except StoreError as error:  # the rows stay
            logger.warning("jobs wait: %s", error)
            return LOOK_S
        waits = (wait, None if self._alone else LOOK_S)
        return min((one for one in waits if one is not None), default=None)
