"""Paging with phase predictions: one bit says whether an entry is idle for the whole next phase.

Antoniadis et al., "Paging with Succinct Predictions", ICML 2023 (arXiv:2210.02775), algorithm Mark&Predict.
"""

from __future__ import annotations

from memos.schedule.eviction.base import Policy
from memos.schedule.eviction.entry import Entry
from memos.schedule.eviction.prediction import Predictor
from memos.schedule.eviction.queue import Queue
from memos.schedule.eviction.words import lasting


class Phase(Policy):
    """A marking algorithm that evicts what is predicted not to be used in the present phase.

    A phase ends when room is needed and everything was used in it. The bit of a request is 1 if the entry is not used
    in the next phase. Unmarked entries, not used in this phase yet, are evicted: those of bit 1 first. With right bits
    at most twice as many are missed as by the optimum, k of one size being what fits. The paper takes a random one of
    several. Here it is the least recently used one, so that nothing is random and equal bits make it LRU; the price is
    a worst case of k times the optimum, where the paper has a multiple of log k. O(1), amortised.
    """

    name = "phase"

    def __init__(self, capacity: int, predictor: Predictor) -> None:
        super().__init__(capacity)
        self._predictor = predictor
        # By the bit of the last use: marked in this phase, and not.
        self._marked, self._unmarked = (Queue(), Queue()), (Queue(), Queue())

    def reason(self, entry: Entry, now: float) -> str:
        """Say what was predicted."""
        found = "predicted not to be used" if entry.key in self._unmarked[1] else "not used"
        return f"{found} in this phase, idle for {lasting(now - entry.used_at)}"

    def _enter(self, entry: Entry) -> None:
        self._marked[self._predictor(entry)].add(entry)

    def _leave(self, entry: Entry) -> None:
        for queue in (*self._marked, *self._unmarked):
            queue.take(entry.key)

    def _victim(self, now: float) -> Entry:
        wanted, idle = self._unmarked
        if not wanted and not idle:
            self._marked, self._unmarked = self._unmarked, self._marked
            wanted, idle = self._unmarked
        return (idle or wanted).first()
