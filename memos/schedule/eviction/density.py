"""Value density: the seconds that a byte is expected to save, and what it is lowest for goes."""

from __future__ import annotations

import math
from collections.abc import Hashable

from memos.schedule.eviction.base import Policy
from memos.schedule.eviction.entry import Entry, Key
from memos.schedule.eviction.queue import Queue
from memos.schedule.eviction.reuse import Reuse
from memos.schedule.eviction.words import lasting, size, times

#: Uses are told apart up to this power of two.
_MOST = 5
#: Keys that went are known for this many times the capacity, in bytes.
_GHOSTS = 1
#: After this many counted ends for each entry, older ones count half.
_MEMORY = 2
_DAY = 86_400.0

#: How often, as a power of two, and with what label: what probabilities are learned for.
_Kind = tuple[int, Hashable]


class ValueDensity(Policy):
    """Evicts the lowest ``seconds x probability of a use in the next moment / bytes``.

    The probability comes from :class:`Reuse`: ``theta / idle``, with a theta for each kind of entries that were used
    about as often and carry the same label. Among those of a kind and of about equal seconds per byte the one idle
    longest is worth least, so they are a queue, and only the first ones of the queues are compared: O(queues), not
    O(entries). Keys that went stay known for a while, and teach what would have been used again.
    """

    name = "density"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._queues: dict[tuple[_Kind, int], Queue] = {}
        self._place: dict[Key, tuple[_Kind, int]] = {}
        self._gone = Queue()
        self._reuse = Reuse()

    def reason(self, entry: Entry, now: float) -> str:
        """Say what its value is made of."""
        daily = self._rate(_kind(entry), entry, now) * _DAY
        return (
            f"lowest value density: saves {entry.seconds:.3g} s a use, {daily:.2g} uses a day expected, "
            f"{size(entry.bytes)}; {times(entry.uses)}, idle for {lasting(now - entry.used_at)}"
        )

    def _rate(self, kind: _Kind, entry: Entry, now: float) -> float:
        """Return the uses expected per second."""
        return self._reuse.theta(kind, 1 << kind[0]) / max(now - entry.used_at, 1e-9)

    def _victim(self, now: float) -> Entry:
        lowest, victim = math.inf, None
        for (kind, _), queue in self._queues.items():
            entry = queue.first()
            price = self._rate(kind, entry, now) * entry.seconds / max(entry.bytes, 1)
            if victim is None or price < lowest:
                lowest, victim = price, entry
        assert victim is not None
        return victim

    def _missed(self, entry: Entry) -> None:
        before = self._gone.take(entry.key)
        if before is not None:
            self._end(_kind(before), entry.used_at - before.used_at, used=True)
            entry.uses += before.uses

    def _touch(self, entry: Entry, now: float) -> None:
        self._end(self._place[entry.key][0], now - entry.used_at, used=True)
        super()._touch(entry, now)

    def _enter(self, entry: Entry) -> None:
        worth = math.frexp(entry.seconds / max(entry.bytes, 1))[1]
        place = self._place[entry.key] = (_kind(entry), worth)
        self._queues.setdefault(place, Queue()).add(entry)

    def _leave(self, entry: Entry) -> None:
        place = self._place.pop(entry.key)
        queue = self._queues[place]
        queue.take(entry.key)
        if not queue:
            del self._queues[place]

    def _evicting(self, entry: Entry, now: float) -> None:
        self._reuse.leaving(now - entry.used_at)
        self._gone.add(entry)
        for forgotten in self._gone.shrink(_GHOSTS * self.capacity):
            self._end(_kind(forgotten), now - forgotten.used_at, used=False)

    def _end(self, kind: _Kind, idle: float, *, used: bool) -> None:
        self._reuse.end(kind, idle, used=used)
        if self._reuse.counted > _MEMORY * len(self):
            self._reuse.halve()


def _kind(entry: Entry) -> _Kind:
    return min(int(max(entry.uses, 1.0)).bit_length() - 1, _MOST), entry.label
