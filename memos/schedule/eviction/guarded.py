"""A policy that is followed only while it does better than LRU."""

from __future__ import annotations

import math
from collections.abc import Iterable

from memos.schedule.eviction.base import Policy
from memos.schedule.eviction.entry import Entry, Key
from memos.schedule.eviction.lru import Lru
from memos.schedule.eviction.queue import Queue
from memos.schedule.eviction.words import lasting

#: By how much of what the tier could save in one use of everything a policy has to be ahead before it is followed.
_AHEAD = 0.01


class Guarded(Policy):
    """Follows LRU or another policy, whichever has saved more seconds of late.

    Both are run beside the tier on keys alone, as if each had it for itself. When room is needed, what the followed one
    no longer has goes first, so the tier comes to hold the same. The lead of one over the other is counted, in seconds
    saved, up to a bound, and who reaches the bound is followed until the other does. It begins with LRU, so what never
    was ahead costs nothing, and what stops being ahead costs twice the bound and what it has displaced. Following the
    leader is known to lose little (Blum & Burch, Machine Learning 2000; for caches, Chłędowski et al., "Robust
    Learning-Augmented Caching", ICML 2021). O(1) besides the policy.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy.capacity)
        self.name = f"guarded {policy.name}"
        self._sides: tuple[Policy, Policy] = (Lru(policy.capacity), policy)
        self._followed = 0
        self._lead = 0.0
        self._seconds = 0.0
        # What may be evicted, in the order of last uses: all of it, and what each side does not have.
        self._queue = Queue()
        self._extra = (Queue(), Queue())

    def restore(self, entries: Iterable[Entry]) -> None:
        """Restore both sides too."""
        held = list(entries)
        for side in self._sides:
            side.restore(held)
        super().restore(held)

    def drop(self, key: Key) -> None:
        """Forget an entry, on both sides too."""
        super().drop(key)
        for side in self._sides:
            side.drop(key)

    def hold(self, key: Key) -> None:
        """Keep an entry from being evicted, on both sides too."""
        super().hold(key)
        for side in self._sides:
            if key in side:
                side.hold(key)

    def release(self, key: Key) -> None:
        """Let an entry be evicted again, on both sides too."""
        super().release(key)
        for side in self._sides:
            if key in side:
                side.release(key)

    def reason(self, entry: Entry, now: float) -> str:
        """Say who was followed."""
        side = self._sides[self._followed]
        if entry.key in side:
            return f"{side.name} was ahead: {side.reason(entry, now)}"
        return f"{side.name} was ahead and let it go, idle for {lasting(now - entry.used_at)}"

    def _missed(self, entry: Entry) -> None:
        self._compare(entry, entry.used_at)

    def _touch(self, entry: Entry, now: float) -> None:
        self._compare(entry, now)
        super()._touch(entry, now)

    def _compare(self, entry: Entry, now: float) -> None:
        """Give both sides a request, and follow the one that is ahead."""
        lru, policy = (self._asked(place, entry, now) for place in (0, 1))
        bound = _AHEAD * self._seconds
        self._lead += entry.seconds * (policy - lru)
        if abs(self._lead) > bound:
            self._followed = int(self._lead > 0)
            self._lead = math.copysign(bound, self._lead)

    def _asked(self, place: int, entry: Entry, now: float) -> bool:
        """Give a side a request; return whether it had the entry."""
        side = self._sides[place]
        if entry.key in side:
            side.hit(entry.key, now)
            return True
        if side.fits(entry.bytes):
            for gone in side.admit(entry.anew(), now):
                if gone.key in self._queue:
                    self._extra[place].add(self._there[gone.key])
        return False

    def _enter(self, entry: Entry) -> None:
        self._seconds += entry.seconds
        self._queue.add(entry)
        for side, extra in zip(self._sides, self._extra, strict=True):
            if entry.key not in side:
                extra.add(entry)

    def _leave(self, entry: Entry) -> None:
        self._seconds -= entry.seconds
        for queue in (self._queue, *self._extra):
            queue.take(entry.key)

    def _victim(self, now: float) -> Entry:
        extra = self._extra[self._followed]
        if extra:
            return extra.first()
        chosen = self._sides[self._followed].victim(now)
        return self._there[chosen.key] if chosen and chosen.key in self._queue else self._queue.first()

    def _evicting(self, entry: Entry, now: float) -> None:
        self._sides[self._followed].drop(entry.key)
