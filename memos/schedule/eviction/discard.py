"""Paging with discard predictions: one bit says whether an entry may go before its next use.

Antoniadis, Boyar, Eliáš, Favrholdt, Hoeksma, Larsen, Polak & Simon, "Paging with Succinct Predictions", ICML 2023
(arXiv:2210.02775), section on discard predictions.
"""

from __future__ import annotations

from memos.schedule.eviction.base import Policy
from memos.schedule.eviction.entry import Entry
from memos.schedule.eviction.prediction import Predictor
from memos.schedule.eviction.queue import Queue
from memos.schedule.eviction.words import lasting


class Discard(Policy):
    """Evicts entries of bit 1, and when there are none lets all the others become such.

    The bit of a request is 1 if Belady's optimum would evict the entry before it is used again, and then it is safe to
    discard. The paper's algorithm evicts any entry of bit 1, and flushes everything where all bits are 0. Here the
    flush is lazy: what is flushed stays until its room is needed, so whatever is a hit there is one here, and the
    paper's bound holds. It is (1, k - 1, 1)-competitive: of entries of one size, k of which fit, at most
    ``OPT + (k - 1) n0 + n1`` are missed, with n0 and n1 the numbers of wrong bits 0 and 1. Of several the least
    recently used goes, which makes it LRU where all bits are equal. O(1).
    """

    name = "discard"

    def __init__(self, capacity: int, predictor: Predictor) -> None:
        super().__init__(capacity)
        self._predictor = predictor
        self._safe, self._wanted = Queue(), Queue()

    def reason(self, entry: Entry, now: float) -> str:
        """Say what was predicted."""
        return f"predicted not to be used again in time, idle for {lasting(now - entry.used_at)}"

    def _enter(self, entry: Entry) -> None:
        (self._safe if self._predictor(entry) else self._wanted).add(entry)

    def _leave(self, entry: Entry) -> None:
        self._safe.take(entry.key)
        self._wanted.take(entry.key)

    def _victim(self, now: float) -> Entry:
        if not self._safe:
            self._safe, self._wanted = self._wanted, self._safe
        return self._safe.first()
