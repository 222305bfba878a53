"""S3-FIFO: three FIFO queues (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023)."""

from __future__ import annotations

from memos.schedule.eviction.base import Policy
from memos.schedule.eviction.entry import Entry, Key
from memos.schedule.eviction.queue import Queue

#: The paper's share of the small queue, found there on ten traces.
_SMALL = 0.1
#: Uses in the small queue that earn a place in the main one, and the most that are counted.
_EARNED, _MOST = 2, 3


class S3Fifo(Policy):
    """Newcomers wait in a small queue; those used twice there, or back from the ghost queue, enter the main one.

    The main queue gives what was used another round (the paper's algorithm 1). It is written in bytes: the small queue
    has a tenth of them, the main queue and the keys in the ghost queue stand for the rest each. O(1), amortised.
    """

    name = "s3fifo"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._share = capacity - max(int(capacity * _SMALL), 1)
        self._small, self._main, self._ghosts = Queue(), Queue(), Queue()
        self._uses: dict[Key, int] = {}

    def reason(self, entry: Entry, now: float) -> str:
        """Say which queue it was in."""
        return (
            "used less than three times while new" if entry.key in self._small else "not used again in the main queue"
        )

    def _enter(self, entry: Entry) -> None:
        known = self._ghosts.take(entry.key) is not None or entry.uses > 1
        (self._main if known else self._small).add(entry)
        self._uses[entry.key] = 0

    def _touch(self, entry: Entry, now: float) -> None:
        entry.use(now)
        self._uses[entry.key] = min(self._uses[entry.key] + 1, _MOST)

    def _leave(self, entry: Entry) -> None:
        self._small.take(entry.key)
        self._main.take(entry.key)
        del self._uses[entry.key]

    def _victim(self, now: float) -> Entry:
        while self._small and self._main.bytes <= self._share:
            entry = self._small.first()
            if self._uses[entry.key] < _EARNED:
                return entry
            self._small.take(entry.key)
            self._main.add(entry)
            self._uses[entry.key] = 0
        return self._worn()

    def _worn(self) -> Entry:
        """Return the first of the main queue that was not used in its last round."""
        while True:
            entry = self._main.first()
            if not self._uses[entry.key]:
                return entry
            self._uses[entry.key] -= 1
            self._main.add(entry)

    def _evicting(self, entry: Entry, now: float) -> None:
        if entry.key in self._small:
            self._ghosts.add(entry)
            self._ghosts.shrink(self._share)

    def _order(self, entry: Entry) -> float:
        return entry.created_at
