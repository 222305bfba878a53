"""What was brought into host memory before anybody needed it, within a budget of its own.

It never takes the place of what was used: only of what was prefetched too, and is worth less.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

#: After so many seconds without a new prediction, what is staged is worth half: who was asking may be gone.
HALF_LIFE_S = 600.0
#: By how much worth has to exceed that of what has to go for it: less is not worth reading a file for.
EDGE = 1.25
#: Users whose counters are kept.
MOST_OWNERS = 1_024

#: Whose it is: tenant and user.
Owner = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Offer:
    """Something that could be staged: how likely it is needed next, and the seconds that having it saves then."""

    key: Hashable
    owner: Owner
    bytes: int
    seconds: float
    probability: float

    @property
    def worth(self) -> float:
        """The value density: seconds saved x probability / bytes."""
        return self.seconds * self.probability / max(self.bytes, 1)


@dataclass(slots=True)
class Counts:
    """What became of prefetching, since the process began.

    ``hits`` needed what was staged, ``misses`` had to read a file. ``bytes`` were staged, ``wasted_bytes`` of them
    dropped before anybody needed them.
    """

    hits: int = 0
    misses: int = 0
    bytes: int = 0
    wasted_bytes: int = 0

    @property
    def hit_rate(self) -> float:
        """Of what was not in memory by its last use, the share that prefetching had brought there."""
        return self.hits / max(1, self.hits + self.misses)


@dataclass(slots=True)
class _Staged:
    offer: Offer
    at: float
    value: Any = None

    def worth(self, now: float) -> float:
        return self.offer.worth * math.exp2((self.at - now) / HALF_LIFE_S)


class Staging:
    """At most ``limit`` bytes. Any thread may call; values are whatever a tier can use."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._staged: dict[Hashable, _Staged] = {}
        self._total = Counts()
        self._counts: OrderedDict[Owner, Counts] = OrderedDict()

    # ------------------------------------------------------------ the prefetcher's side

    def admit(self, offer: Offer) -> bool:
        """Make room for something; return whether it is to be read now. It counts as there until it is dropped."""
        with self._lock:
            if offer.key in self._staged or offer.bytes > self.limit:
                return False
            going = self._cheaper(offer)
            if going is None:
                return False
            for key in going:
                self._drop(key)
            self._staged[offer.key] = _Staged(offer, self._clock())
            return True

    def fill(self, key: Hashable, value: Any) -> bool:
        """Hand over what was read; return whether it is kept: not if it was dropped, or read by others, meanwhile."""
        with self._lock:
            one = self._staged.get(key)
            if one is None:
                return False
            one.value = value
            for counts in self._of(one.offer.owner):
                counts.bytes += one.offer.bytes
            return True

    def predict(self, owner: Owner, probabilities: Mapping[Hashable, float]) -> None:
        """Hear how likely what is staged for an owner is needed next; what is not named is not any more."""
        now = self._clock()
        with self._lock:
            for one in self._staged.values():
                if one.offer.owner == owner:
                    given = probabilities.get(one.offer.key, 0.0)
                    one.offer = Offer(one.offer.key, owner, one.offer.bytes, one.offer.seconds, given)
                    one.at = now

    # ------------------------------------------------------------ the tiers' side

    def take(self, key: Hashable, owner: Owner) -> Any:
        """Return what is staged under a key, which it leaves, or ``None``: then the caller reads it. Counts either."""
        with self._lock:
            one = self._staged.pop(key, None)
            found = one is not None and one.value is not None
            for counts in self._of(owner):
                counts.hits += found
                counts.misses += not found
            return one.value if one is not None else None

    def drop(self, keys: Collection[Hashable]) -> None:
        """Forget what may not be served any more, also what is being read."""
        with self._lock:
            for key in keys:
                self._drop(key)

    def clear(self) -> None:
        """Forget everything."""
        self.drop(list(self._staged))

    # ------------------------------------------------------------ what there is

    @property
    def bytes(self) -> int:
        """The memory held, with what is being read."""
        with self._lock:
            return sum(one.offer.bytes for one in self._staged.values())

    @property
    def keys(self) -> frozenset[Hashable]:
        """What is there or being read."""
        with self._lock:
            return frozenset(self._staged)

    def counts(self, owner: Owner | None = None) -> Counts:
        """Return the counters of an owner, or of all."""
        with self._lock:
            found = self._total if owner is None else self._counts.get(owner, Counts())
            return Counts(found.hits, found.misses, found.bytes, found.wasted_bytes)

    # ------------------------------------------------------------ inside

    def _cheaper(self, offer: Offer) -> list[Hashable] | None:
        """Return what has to go for an offer, the cheapest first; ``None`` if not all of it is worth less."""
        now, going = self._clock(), []
        room = self.limit - sum(one.offer.bytes for one in self._staged.values())
        for key, one in sorted(self._staged.items(), key=lambda item: item[1].worth(now)):
            if room >= offer.bytes:
                break
            if one.worth(now) * EDGE >= offer.worth:
                return None
            going.append(key)
            room += one.offer.bytes
        return going

    def _drop(self, key: Hashable) -> None:
        one = self._staged.pop(key, None)
        if one is not None and one.value is not None:
            for counts in self._of(one.offer.owner):
                counts.wasted_bytes += one.offer.bytes

    def _of(self, owner: Owner) -> tuple[Counts, Counts]:
        counts = self._counts.setdefault(owner, Counts())
        self._counts.move_to_end(owner)
        if len(self._counts) > MOST_OWNERS:
            self._counts.popitem(last=False)
        return self._total, counts
