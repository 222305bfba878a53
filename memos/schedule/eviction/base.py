"""The base of every policy: bookkeeping of bytes, and the five questions a policy answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace

from memos.schedule.eviction.entry import Entry, Key


class Policy(ABC):
    """Decides what a tier of ``capacity`` bytes keeps.

    The tier tells it of every use (:meth:`hit`) and asks it for room (:meth:`admit`), or asks who would go
    (:meth:`victim`, :meth:`evict`). Held entries are not shown to the subclass at all, which is why none can evict
    them. Nothing is random; times only have to grow. Not safe for several threads.
    """

    #: What users call it.
    name: str

    def __init__(self, capacity: int) -> None:
        if capacity <= 0:
            raise ValueError(f"a tier needs room for some bytes, not {capacity}")
        self.capacity = capacity
        self.used = 0
        self._held = 0
        self._there: dict[Key, Entry] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._there

    def __len__(self) -> int:
        return len(self._there)

    def fits(self, size: int) -> bool:
        """Whether ``size`` bytes could be had by evicting everything that is not held."""
        return self._held + size <= self.capacity

    # ------------------------------------------------------------ what the tier tells

    def request(self, entry: Entry, now: float) -> bool:
        """Use an entry, or admit it if it is not there and fits; return whether it was there."""
        if entry.key in self._there:
            self.hit(entry.key, now)
            return True
        if self.fits(entry.bytes):
            self.admit(entry, now)
        return False

    def hit(self, key: Key, now: float) -> None:
        """Count a use of an entry that is there."""
        entry = self._there[key]
        if entry.held:
            entry.use(now)
        else:
            self._touch(entry, now)

    def admit(self, entry: Entry, now: float) -> list[Entry]:
        """Take an entry in, which becomes the policy's own; return who had to go for it.

        Raises ``ValueError`` if it is there already or does not fit.
        """
        if entry.key in self._there or not self.fits(entry.bytes):
            raise ValueError(f"an entry of {entry.bytes} bytes is there already or does not fit into {self.capacity}")
        entry.created_at = entry.used_at = now
        self._missed(entry)
        gone = []
        while self.used + entry.bytes > self.capacity:
            evicted = self.evict(now)
            if evicted is None:
                raise RuntimeError(f"{self.name} found nobody to evict")
            gone.append(evicted)
        self._take_in(entry)
        return gone

    def restore(self, entries: Iterable[Entry]) -> None:
        """Take in copies of what a tier holds already, as their counters tell; the capacity does not matter here."""
        for entry in sorted(entries, key=self._order):
            self._take_in(replace(entry))

    def drop(self, key: Key) -> None:
        """Forget an entry that is gone for reasons of its own, if it is there."""
        entry = self._there.get(key)
        if entry is not None:
            self._take_out(entry)

    def hold(self, key: Key) -> None:
        """Keep an entry that is there from being evicted."""
        entry = self._there[key]
        if not entry.held:
            self._leave(entry)
            entry.held = True
            self._held += entry.bytes

    def release(self, key: Key) -> None:
        """Let an entry be evicted again."""
        entry = self._there[key]
        if entry.held:
            entry.held = False
            self._held -= entry.bytes
            self._enter(entry)

    # ------------------------------------------------------------ what the tier asks

    def victim(self, now: float) -> Entry | None:
        """Return who goes next, ``None`` if nobody may go."""
        return self._victim(now) if self.used > self._held else None

    def evict(self, now: float) -> Entry | None:
        """Let the next one go and return it, ``None`` if nobody may go."""
        entry = self.victim(now)
        if entry is not None:
            self._evicting(entry, now)
            self._take_out(entry)
        return entry

    @abstractmethod
    def reason(self, entry: Entry, now: float) -> str:
        """Say in a few words why an entry that :meth:`victim` named goes before the others."""

    # ------------------------------------------------------------ what a policy answers

    @abstractmethod
    def _enter(self, entry: Entry) -> None:
        """Begin to consider an entry, whose counters are up to date."""

    @abstractmethod
    def _leave(self, entry: Entry) -> None:
        """No longer consider an entry."""

    @abstractmethod
    def _victim(self, now: float) -> Entry:
        """Choose one of the considered entries, of which there is at least one."""

    def _touch(self, entry: Entry, now: float) -> None:
        """Count a use of a considered entry: by default it leaves and enters anew."""
        self._leave(entry)
        entry.use(now)
        self._enter(entry)

    def _missed(self, entry: Entry) -> None:  # noqa: B027  (few policies need to know)
        """Hear of an entry that will be taken in, before room is made for it."""

    def _evicting(self, entry: Entry, now: float) -> None:  # noqa: B027  (few policies need to know)
        """Hear of an entry that is evicted, before it leaves."""

    def _order(self, entry: Entry) -> float:
        """The order in which to restore entries: by default that of their last uses."""
        return entry.used_at

    # ------------------------------------------------------------ bookkeeping

    def _take_in(self, entry: Entry) -> None:
        self._there[entry.key] = entry
        self.used += entry.bytes
        if entry.held:
            self._held += entry.bytes
        else:
            self._enter(entry)

    def _take_out(self, entry: Entry) -> None:
        del self._there[entry.key]
        self.used -= entry.bytes
        if entry.held:
            self._held -= entry.bytes
        else:
            self._leave(entry)
