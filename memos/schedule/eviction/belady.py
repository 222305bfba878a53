"""Belady's MIN: what is used again last goes. For simulators, which know the future."""

from __future__ import annotations

import math
from collections.abc import Sequence

from memos.schedule.eviction.entry import Entry, Key
from memos.schedule.eviction.ranked import Ranked


class Belady(Ranked):
    """Evicts whose next use is farthest (LFD; Belady 1966, optimal by Mattson et al., IBM Systems Journal 1970).

    ``following`` is :func:`next_uses` of the trace, and ``now`` is the place in it. Where all entries have the same
    size and save the same, no policy that takes in every miss has more hits. Where sizes or savings differ it is
    neither an optimum nor a bound: that problem is NP-hard (Chrobak et al., 2012).
    """

    name = "belady"

    def __init__(self, capacity: int, following: Sequence[float]) -> None:
        super().__init__(capacity)
        self._following = following

    def reason(self, entry: Entry, now: float) -> str:
        """Say when it is used again."""
        return f"used again last: after {-self._ranks[entry.key][0] - now:.0f} requests"

    def _rank(self, entry: Entry) -> float:
        return -self._following[int(entry.used_at)]


def next_uses(trace: Sequence[Key]) -> list[float]:
    """Return, for every place in a trace, the place of the next request of the same key, infinite if there is none."""
    following = [math.inf] * len(trace)
    later: dict[Key, int] = {}
    for place in range(len(trace) - 1, -1, -1):
        following[place] = later.get(trace[place], math.inf)
        later[trace[place]] = place
    return following
