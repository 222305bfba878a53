"""One worker process: an engine, opened by the first task, and the runner of its jobs.

This module stays light: beat loads it, and whoever asks how the workers are.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from memos.cube import Scope
from memos.errors import StoreError

if TYPE_CHECKING:
    from memos.engine import MemoryOS
    from memos.schedule.runner import Runner

logger = logging.getLogger(__name__)

#: Most messages that one sweep sends.
SWEPT = 1_000


class Worker:
    """What the tasks of Celery do. None of it fails where the store is away: the rows stay, and a sweep comes back."""

    def __init__(self, open_engine: Callable[[], MemoryOS]) -> None:
        self._open_engine = open_engine
        self._opening = threading.Lock()
        self._engine: MemoryOS | None = None
        self._runner: Runner | None = None

    def run(self) -> None:
        """Run the job whose turn it is, and then what had to wait for just this one to end."""
        try:
            self._running()[1].run(2)
        except StoreError as error:
            logger.warning("a job waits: %s", error)

    def lost(self, waiting: Callable[[], int]) -> Sequence[tuple[Scope, str]]:
        """Return whose jobs could be run and have no message, where ``waiting`` counts the messages there are.

        Jobs of runners that died are among them, and those that were put off until now.
        """
        try:
            _, runner = self._running()
            runner.release()
            due = runner.due(SWEPT)
        except StoreError as error:
            logger.warning("jobs wait: %s", error)
            return ()
        return due[waiting() :] if due else ()

    def maintain(self) -> None:
        """Do what is to be done now and then."""
        try:
            self._running()[0].upkeep.run()
        except StoreError as error:
            logger.warning("upkeep waits: %s", error)

    def stop(self) -> None:
        """Give running jobs back to the queue at their next report."""
        if self._runner is not None:
            self._runner.stop()

    def close(self) -> None:
        """Close the engine, once nothing is running any more."""
        if self._runner is not None:
            self._runner.close()
        if self._engine is not None:
            self._engine.close()

    def _running(self) -> tuple[MemoryOS, Runner]:
        from memos.schedule.pace import Pace
        from memos.schedule.runner import Runner

        with self._opening:
            if self._engine is None or self._runner is None:
                self._engine = self._open_engine()
                self._runner = Runner(self._engine.database, self._engine.tasks, Pace.of(self._engine.settings))
            return self._engine, self._runner
