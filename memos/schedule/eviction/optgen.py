"""What Belady's optimum would have done, told in hindsight (OPTgen; Jain & Lin, "Back to the Future", ISCA 2016)."""

from __future__ import annotations

import numpy as np

#: Stretches of the past that are told apart while as many bytes as fit are requested.
_STRETCHES = 16


class OptGen:
    """Keeps how full a cache of ``capacity`` bytes managed by the optimum was, in every stretch of the recent past.

    Time is the number of bytes requested so far. Between two uses the optimum kept an entry if it had room for it in
    every stretch between them. It looks back over ``turns`` times the capacity; O(turns), on short arrays.
    """

    def __init__(self, capacity: int, turns: int) -> None:
        self._capacity = capacity
        self._stretch = max(capacity // _STRETCHES, 1)
        self._full = np.zeros(turns * _STRETCHES, np.int64)
        self._place = 0
        self.clock = 0

    @property
    def reach(self) -> int:
        """How far back it looks, in bytes requested."""
        return self._stretch * len(self._full)

    def request(self, size: int) -> None:
        """Let time pass."""
        self.clock += size
        place = self.clock // self._stretch
        for begun in range(max(self._place + 1, place - len(self._full) + 1), place + 1):
            self._full[begun % len(self._full)] = 0
        self._place = place

    def kept(self, size: int, since: int) -> bool:
        """Whether an entry used at clock ``since`` and again now was kept in between; if so, note its room as taken."""
        began = since // self._stretch
        if self._place - began >= len(self._full):
            return False
        stretches = np.arange(began, self._place) % len(self._full)
        if self._full[stretches].max(initial=0) + size > self._capacity:
            return False
        self._full[stretches] += size
        return True
