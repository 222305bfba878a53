"""What a byte-capped tier holds: its size, what it saves, and how it was used so far."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

Key = Hashable


@dataclass(slots=True, eq=False)
class Entry:
    """A KV file, an adapter, or a block of a trace, with the counters that policies decide by.

    ``seconds`` is what one use saves. ``label`` tells apart what is used again more often from what is not, as far as
    the caller knows, such as whether the session of a memory still goes on. ``before`` is the key of the entry that
    this one follows or is linked to. ``held`` entries, pinned or frozen, are never evicted. ``uses`` counts the first
    use too; a heat whose older uses have decayed does as well. Times are in seconds since any fixed moment.
    """

    key: Key
    bytes: int
    seconds: float = 1.0
    label: Hashable = None
    before: Key | None = None
    held: bool = False
    uses: float = 1.0
    created_at: float = 0.0
    used_at: float = 0.0

    def anew(self) -> Entry:
        """Return a copy that was used once."""
        return Entry(self.key, self.bytes, self.seconds, self.label, self.before, self.held)

    def use(self, now: float) -> None:
        """Count a use."""
        self.uses += 1.0
        self.used_at = now
