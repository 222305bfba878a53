"""What is done now and then, by one process of a store at a time, whoever asks: a thread of this one, or beat."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable

from memos.clock import DAY_US, now_us
from memos.errors import MemosError
from memos.store.database import Database
from memos.store.jobs import JobRepository
from memos.store.scoped import old_jobs

logger = logging.getLogger(__name__)

#: How long a job that is done or cancelled can be looked at; failed ones stay.
KEEP_US = 30 * DAY_US


class Seldom:
    """Work that has its turn when ``every_s`` seconds have passed since the last time, or since the process began.

    So a process that is soon over, such as a command, does none of it.
    """

    def __init__(self, work: Callable[[], object], every_s: float) -> None:
        self._work = work
        self._every_s = every_s
        self._last = time.monotonic()

    def __call__(self) -> None:
        """Do it, if it is time."""
        if time.monotonic() - self._last >= self._every_s:
            self._last = time.monotonic()
            self._work()


class Upkeep:
    """A list of work, in order. Each is short or interruptible, and safe to repeat."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.work: list[Callable[[], object]] = [self._drop_old_jobs]

    def run(self) -> None:
        """Do all of it, unless another process is at it. What fails is logged and tried again the next time."""
        with self._database.lease("memos-upkeep") as granted:
            for work in self.work if granted else ():
                try:
                    work()
                except MemosError as error:
                    logger.warning("upkeep failed: %s", error)

    def _drop_old_jobs(self) -> None:
        with self._database.read() as connection:
            old = old_jobs(connection, now_us() - KEEP_US)
        by_namespace: defaultdict[int, list[str]] = defaultdict(list)
        for namespace_id, job_id in old:
            by_namespace[namespace_id].append(job_id)
        for namespace_id, ids in by_namespace.items():
            with self._database.write() as connection:
                JobRepository(connection, namespace_id).remove(ids)
