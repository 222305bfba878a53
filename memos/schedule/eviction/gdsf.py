"""GDSF: Greedy-Dual-Size-Frequency (Cherkasova, HP Labs HPL-98-69 R.1, 1998; Cao & Irani, USITS 1997)."""

from __future__ import annotations

from memos.schedule.eviction.entry import Entry
from memos.schedule.eviction.ranked import Ranked
from memos.schedule.eviction.words import size, times


class Gdsf(Ranked):
    """Ranks by ``H = L + uses * seconds / bytes``, where ``L`` is the ``H`` of the last one evicted. O(log n).

    ``L`` grows, so what was used often long ago falls behind what is used now.
    """

    name = "gdsf"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._floor = 0.0

    def reason(self, entry: Entry, now: float) -> str:
        """Say what its rank is made of."""
        return f"lowest uses x seconds / bytes: {times(entry.uses)}, saves {entry.seconds:.3g} s, {size(entry.bytes)}"

    def _rank(self, entry: Entry) -> float:
        return self._floor + entry.uses * entry.seconds / max(entry.bytes, 1)

    def _evicting(self, entry: Entry, now: float) -> None:
        self._floor = self._ranks[entry.key][0]
