"""ARC: adaptive replacement cache (Megiddo & Modha, FAST 2003, figure 4)."""

from __future__ import annotations

from memos.schedule.eviction.base import Policy
from memos.schedule.eviction.entry import Entry
from memos.schedule.eviction.queue import Queue


class Arc(Policy):
    """Recency against frequency, with a share that ghosts move.

    ``once`` and ``again`` (the paper's T1, T2) hold what was used once and more often, ``once_gone`` and
    ``again_gone`` (B1, B2) remember what went from them. A miss that is remembered moves the target for the bytes of
    ``once`` (p): up by ``bytes * max(1, |B2| / |B1|)`` if by B1, down by ``bytes * max(1, |B1| / |B2|)`` if by B2.
    Counts are bytes here; with equal sizes it is the paper's algorithm. O(1).
    """

    name = "arc"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._once, self._again = Queue(), Queue()
        self._once_gone, self._again_gone = Queue(), Queue()
        self._target = 0.0
        self._favour_again = False

    def reason(self, entry: Entry, now: float) -> str:
        """Say which list it was the oldest of."""
        return f"oldest of those used {'once' if entry.key in self._once else 'more than once'}"

    def _missed(self, entry: Entry) -> None:
        once_gone, again_gone = self._once_gone.bytes, self._again_gone.bytes
        self._favour_again = entry.key in self._again_gone
        if self._once_gone.take(entry.key):
            self._target = min(self._target + entry.bytes * max(1.0, again_gone / once_gone), self.capacity)
            entry.uses += 1
        elif self._again_gone.take(entry.key):
            self._target = max(self._target - entry.bytes * max(1.0, once_gone / again_gone), 0.0)
            entry.uses += 1

    def _enter(self, entry: Entry) -> None:
        (self._once if entry.uses == 1 else self._again).add(entry)
        self._once_gone.shrink(max(self.capacity - self._once.bytes, 0))
        self._again_gone.shrink(max(2 * self.capacity - self.used - self._once_gone.bytes, 0))

    def _leave(self, entry: Entry) -> None:
        self._once.take(entry.key)
        self._again.take(entry.key)

    def _victim(self, now: float) -> Entry:
        once = self._once.bytes
        over = once > self._target or (self._favour_again and once == self._target)
        return self._once.first() if self._once and (over or not self._again) else self._again.first()

    def _evicting(self, entry: Entry, now: float) -> None:
        (self._once_gone if entry.key in self._once else self._again_gone).add(entry)
