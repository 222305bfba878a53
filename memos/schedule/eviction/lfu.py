"""LFU: the least often used goes."""

from __future__ import annotations

from memos.schedule.eviction.entry import Entry
from memos.schedule.eviction.ranked import Ranked
from memos.schedule.eviction.words import lasting, times


class Lfu(Ranked):
    """Counts uses since the entry came; of equally used ones the least recently used goes. O(log n)."""

    name = "lfu"

    def reason(self, entry: Entry, now: float) -> str:
        """Say how often it was used."""
        return f"least often used: {times(entry.uses)}, idle for {lasting(now - entry.used_at)}"

    def _rank(self, entry: Entry) -> float:
        return entry.uses
