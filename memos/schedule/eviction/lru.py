"""LRU: the least recently used goes (Belady, "A study of replacement algorithms", IBM Systems Journal 1966)."""

from __future__ import annotations

from memos.schedule.eviction.base import Policy
from memos.schedule.eviction.entry import Entry
from memos.schedule.eviction.queue import Queue
from memos.schedule.eviction.words import lasting


class Lru(Policy):
    """One queue in the order of last uses. O(1)."""

    name = "lru"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._queue = Queue()

    def reason(self, entry: Entry, now: float) -> str:
        """Say how long it was not used."""
        return f"least recently used: idle for {lasting(now - entry.used_at)}"

    def _enter(self, entry: Entry) -> None:
        self._queue.add(entry)

    def _touch(self, entry: Entry, now: float) -> None:
        entry.use(now)
        self._queue.add(entry)

    def _leave(self, entry: Entry) -> None:
        self._queue.take(entry.key)

    def _victim(self, now: float) -> Entry:
        return self._queue.first()
