"""Where jobs are handed to whoever runs them: a thread of this process, or workers behind a broker."""

from __future__ import annotations

from typing import Protocol

from memos.cube import Scope


class Queue(Protocol):
    """Brings jobs that are rows already to a runner. The rows are the truth: what a queue loses is found again."""

    def start(self) -> None:
        """Take up what earlier processes left."""

    def submit(self, scope: Scope, job_id: str) -> None:
        """See to it that a job is run when its turn comes; never fails for want of a runner."""

    def stop(self) -> None:
        """Let go of jobs; those that run here go back to the queue. Stopping twice is harmless."""
