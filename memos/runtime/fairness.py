"""Who is next: a queue for each owner, and a counter of what each was given (VTC, arXiv:2401.00588).

An owner with a thousand requests and one with a single request get even shares of the model while both wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from memos.runtime.request import Job

#: What a token costs its owner: one that is read, one that is written. A token written is a whole forward of its own.
READ, WRITTEN = 1.0, 2.0
#: Owners whose counters are kept.
REMEMBERED = 10_000


class FairQueue:
    """Jobs that wait, first come first served for each owner. Not safe for several threads."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Job]] = {}
        self._given: dict[str, float] = {}
        self._running: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def push(self, job: Job) -> None:
        """Let a job wait. An owner who was away gets no credit for it."""
        if job.owner not in self._waiting and job.owner not in self._running:
            present = [self._given[owner] for owner in (*self._waiting, *self._running)]
            self._given[job.owner] = max(self._given.get(job.owner, 0.0), min(present, default=0.0))
        self._waiting.setdefault(job.owner, deque()).append(job)

    def start(self, job: Job) -> None:
        """Take a job out of the queue to run it; its owner pays for the prompt."""
        self._running[job.owner] = self._running.get(job.owner, 0) + 1  # first, so that its counter is kept
        self.discard(job)
        self.charge(job, READ * job.sequence.waiting)

    def finish(self, job: Job) -> None:
        """Count a job that ran as over."""
        self._running[job.owner] -= 1
        if not self._running[job.owner]:
            del self._running[job.owner]
        self._forget()

    def discard(self, job: Job) -> None:
        """Take a job out of the queue if it is in it."""
        mine = self._waiting.get(job.owner)
        if mine is not None and job in mine:
            mine.remove(job)
            if not mine:
                del self._waiting[job.owner]
            self._forget()

    def charge(self, job: Job, cost: float) -> None:
        """Count what an owner was given."""
        self._given[job.owner] = self._given.get(job.owner, 0.0) + cost

    def fair_order(self) -> Iterator[Job]:
        """Yield the waiting jobs, those of the owner who was given least first."""
        for owner in sorted(self._waiting, key=lambda owner: self._given[owner]):
            yield from self._waiting[owner]

    def _forget(self) -> None:
        """Keep no counters of owners who are gone once nobody is there to compare them with, or they are too many."""
        if not self._waiting and not self._running:
            self._given.clear()
        elif len(self._given) > REMEMBERED:
            present = {*self._waiting, *self._running}
            self._given = {owner: given for owner, given in self._given.items() if owner in present}
