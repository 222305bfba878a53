"""Entries in an order, with their bytes: what most policies are made of."""

from __future__ import annotations

from collections import OrderedDict

from memos.schedule.eviction.entry import Entry, Key


class Queue:
    """Entries in the order they came, each once. Every operation takes constant time."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self.bytes = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def first(self) -> Entry:
        """Return who came first of at least one."""
        return next(iter(self._entries.values()))

    def add(self, entry: Entry) -> None:
        """Put an entry last, also if it was there."""
        if entry.key in self._entries:
            self._entries.move_to_end(entry.key)
        else:
            self._entries[entry.key] = entry
            self.bytes += entry.bytes

    def take(self, key: Key) -> Entry | None:
        """Take an entry out, if it is there."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry.bytes
        return entry

    def shrink(self, most_bytes: float) -> list[Entry]:
        """Take out the oldest until no more than ``most_bytes`` are left; return them."""
        gone = []
        while self.bytes > most_bytes:
            _, entry = self._entries.popitem(last=False)
            self.bytes -= entry.bytes
            gone.append(entry)
        return gone
