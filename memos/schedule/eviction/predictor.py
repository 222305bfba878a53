"""A predictor of discard bits that learns online from the requests it is asked about."""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass

from memos.schedule.eviction.entry import Entry, Key
from memos.schedule.eviction.optgen import OptGen

#: It remembers requests for this many times the capacity, in bytes requested; who is not back by then is discarded.
_TURNS = 4
_RATE = 0.05
#: From this probability on the bit is 1.
_SURE = 0.5
_MOST = 4

_Features = tuple[Hashable, ...]


@dataclass(slots=True)
class _Seen:
    """The last request of a key: when, how many there were, and what was known then."""

    clock: int
    bytes: int
    uses: int
    features: _Features


class DiscardPredictor:
    """Logistic regression on a few categories, one step of gradient descent per request whose fate is known.

    It learns what a discard bit means: whether the optimum for ``capacity`` bytes evicts the entry before its next use,
    as :class:`OptGen` finds out when that use comes, or when it has not come for long. Features of a request: how often
    the key was used, the time since the use before, the label of a first use, and how often what it follows
    (``before``) was used. Deterministic; O(1).
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._optimum = OptGen(capacity, _TURNS)
        self._weights: defaultdict[Hashable, float] = defaultdict(float)
        self._seen: OrderedDict[Key, _Seen] = OrderedDict()

    def __call__(self, entry: Entry) -> bool:
        """Learn from a request and return its bit."""
        self._optimum.request(entry.bytes)
        self._give_up()
        last = self._seen.pop(entry.key, None)
        if last is not None:
            self._learn(last.features, not self._optimum.kept(entry.bytes, last.clock))
        uses = last.uses + 1 if last else 1
        features = self._features(entry, last, uses)
        self._seen[entry.key] = _Seen(self._optimum.clock, entry.bytes, uses, features)
        return self.probability(features) > _SURE

    def probability(self, features: _Features) -> float:
        """Return how likely it is that the optimum discards after such a request."""
        return 1.0 / (1.0 + math.exp(-sum(self._weights[feature] for feature in features)))

    def _features(self, entry: Entry, last: _Seen | None, uses: int) -> _Features:
        often = min(uses.bit_length(), _MOST)
        gap = -1 if last is None else int(math.log2(1 + 16 * (self._optimum.clock - last.clock) / self._capacity))
        follows = self._seen.get(entry.before) if entry.before is not None else None
        led = 0 if follows is None else min(follows.uses.bit_length(), _MOST)
        return ("all", ("uses", often), ("gap", gap), ("label", entry.label, uses == 1), ("before", led, uses == 1))

    def _learn(self, features: _Features, discarded: bool) -> None:
        step = _RATE * (discarded - self.probability(features))
        for feature in features:
            self._weights[feature] += step

    def _give_up(self) -> None:
        """Count those as discarded that were not used again within reach."""
        while self._seen:
            key = next(iter(self._seen))
            if self._optimum.clock - self._seen[key].clock < self._optimum.reach:
                return
            self._learn(self._seen.pop(key).features, True)
