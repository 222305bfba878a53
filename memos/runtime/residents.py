"""What stays in the page pool because it may be wanted again: adapters, cartridges, and blocks of prompts.

One price for all of them, value density: the seconds that having it saves, times how likely it is wanted soon, by the
byte. S-LoRA frees an adapter with its last request and copies it again for the next; here nothing goes before its pages
are needed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from memos.runtime.pool import PagePool, Pages

#: After this long without a use, another one counts as half as likely.
HALF_LIFE_S = 120.0


@dataclass(slots=True, eq=False)
class Resident:
    """Something in pages of the pool. ``seconds`` is what it would take to make it again."""

    key: Hashable
    pages: Pages
    seconds: float
    #: Blocks of a prompt that come before this one, and the key of the last of them: it is of no use without them.
    depth: int = 0
    before: Hashable | None = None
    #: Digests of the adapters and cartridges it was computed with.
    made_with: frozenset[str] = frozenset()
    #: Requests that run with it.
    users: int = 0
    #: How often it was used, older uses counting less.
    heat: float = 0.0
    used_at: float = field(default_factory=time.monotonic)

    def touch(self, now: float) -> None:
        """Count a use."""
        self.heat, self.used_at = 1.0 + self.cooled(now), now

    def cooled(self, now: float) -> float:
        """Return the heat as it is by now."""
        return self.heat * math.exp2((self.used_at - now) / HALF_LIFE_S)

    def price(self, now: float) -> float:
        """Return the value density: seconds saved x uses expected / pages."""
        return self.seconds * self.cooled(now) / max(self.pages.size, 1)


class Residents:
    """Keeps track of who is there, and makes room. Not safe for several threads, like its pool."""

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._there: dict[Hashable, Resident] = {}
        self._idle = 0
        #: Residents that had to go, and what of the wanted was there and was not.
        self.evicted = 0
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._there)

    @property
    def idle_pages(self) -> int:
        """Pages that could be had by evicting everything nobody uses."""
        return self._idle

    def find(self, key: Hashable) -> Resident | None:
        """Return a resident, if it is there."""
        return self._there.get(key)

    def add(self, resident: Resident) -> Resident:
        """Let something stay whose pages the caller took for it, or shares with it; what had its key has to go."""
        self.drop(resident.key)
        self._there[resident.key] = resident
        if not resident.users:
            self._idle += resident.pages.size
        return resident

    def hold(self, residents: Iterable[Resident]) -> None:
        """Count a request that runs with these."""
        now = time.monotonic()
        for one in residents:
            if not one.users:
                self._idle -= one.pages.size
            one.users += 1
            one.touch(now)

    def let_go(self, residents: Iterable[Resident]) -> None:
        """Count a request that ran with these and ended; what was dropped meanwhile goes with its last one."""
        for one in residents:
            one.users -= 1
            if one.users:
                continue
            if self._there.get(one.key) is one:
                self._idle += one.pages.size
            else:
                self._pool.give_back(one.pages)

    def drop(self, key: Hashable) -> None:
        """Forget a resident at once; its pages are free when the last request that runs with it ends."""
        one = self._there.pop(key, None)
        if one is not None and not one.users:
            self._idle -= one.pages.size
            self._pool.give_back(one.pages)

    def drop_made_with(self, digest: str) -> None:
        """Forget an adapter or cartridge, and everything that was computed with it."""
        for key in [one.key for one in self._there.values() if digest in one.made_with]:
            self.drop(key)

    def make_room(self, pages: int) -> bool:
        """Evict idle residents, the cheapest first, until so many pages are free; return whether they are.

        Nothing is evicted if that could not be enough.
        """
        if pages <= self._pool.free:
            return True
        if pages > self._pool.free + self._idle:
            return False
        for one in self._cheapest_first():
            self.drop(one.key)
            self.evicted += 1
            if pages <= self._pool.free:
                return True
        return False

    def _cheapest_first(self) -> list[Resident]:
        """Return who is idle. A block of a prompt is worth no more than one before it, so it goes first."""
        now = time.monotonic()
        idle = sorted((one for one in self._there.values() if not one.users), key=lambda one: one.depth)
        prices: dict[Hashable, float] = {}
        for one in idle:
            prices[one.key] = min(one.price(now), prices.get(one.before, math.inf))
        return sorted(idle, key=lambda one: (prices[one.key], -one.depth))
