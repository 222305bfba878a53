"""Counts of what happened, in which older events count less."""

from __future__ import annotations

import math
from collections.abc import Hashable

#: Beyond this the weight of an event is scaled back, so that it never overflows.
_LARGE = 1e100


class Tally:
    """How often each of a few things happened: an event counts half once ``half_life`` others were counted.

    At most ``most`` things are told apart; beyond, the rarest is forgotten. Instead of fading every count with every
    event, each event weighs more than the one before: O(1).
    """

    def __init__(self, half_life: float, most: int) -> None:
        self._growth = math.exp2(1.0 / half_life)
        self._most = most
        self._weight, self._sum = 1.0, 0.0
        self._counts: dict[Hashable, float] = {}

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def total(self) -> float:
        """The number of events, older ones counting less."""
        return self._sum / self._weight

    def add(self, thing: Hashable) -> None:
        """Count an event."""
        self._weight *= self._growth
        self._counts[thing] = self._counts.get(thing, 0.0) + self._weight
        self._sum += self._weight
        if len(self._counts) > self._most:
            others = (one for one in self._counts if one != thing)
            self._sum -= self._counts.pop(min(others, key=self._counts.__getitem__))
        if self._weight > _LARGE:
            self._counts = {one: count / self._weight for one, count in self._counts.items()}
            self._weight, self._sum = 1.0, self._sum / self._weight

    def count(self, thing: Hashable) -> float:
        """Return how often something happened."""
        return self._counts.get(thing, 0.0) / self._weight
