"""Policies that give every entry a rank when it is used, and evict the lowest."""

from __future__ import annotations

import heapq
from abc import abstractmethod
from itertools import count

from memos.schedule.eviction.base import Policy
from memos.schedule.eviction.entry import Entry, Key

#: A heap is written anew when it has this many more outdated items than entries.
_SLACK = 64


class Ranked(Policy):
    """A heap of ranks; of equal ranks the one given first goes. O(log n), since outdated ranks are left in the heap."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._heap: list[tuple[float, int, Key]] = []
        self._ranks: dict[Key, tuple[float, int]] = {}
        self._turn = count()

    @abstractmethod
    def _rank(self, entry: Entry) -> float:
        """Return the rank of an entry that was just used."""

    def _enter(self, entry: Entry) -> None:
        rank = self._ranks[entry.key] = (self._rank(entry), next(self._turn))
        heapq.heappush(self._heap, (*rank, entry.key))

    def _leave(self, entry: Entry) -> None:
        del self._ranks[entry.key]
        if len(self._heap) > 2 * len(self._ranks) + _SLACK:
            self._heap = [(*rank, key) for key, rank in self._ranks.items()]
            heapq.heapify(self._heap)

    def _victim(self, now: float) -> Entry:
        while True:
            rank, turn, key = self._heap[0]
            if self._ranks.get(key) == (rank, turn):
                return self._there[key]
            heapq.heappop(self._heap)
