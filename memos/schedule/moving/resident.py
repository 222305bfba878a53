"""A cube of a higher tier as plans see it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resident:
    """A KV file or an adapter: its heat by now, the tokens of its memories, its size on disk.

    ``codec`` is that of a KV file. ``created_at`` and ``used_at`` (last) are microseconds since the epoch; one that is
    ``kept`` has to stay.
    """

    cube_id: str
    heat: float
    tokens: int
    bytes: int
    codec: str | None
    sources: tuple[tuple[str, int], ...]
    created_at: int = 0
    used_at: int = 0
    kept: bool = False

    @property
    def memories(self) -> frozenset[str]:
        """The ids of the memories in it."""
        return frozenset(cube_id for cube_id, _ in self.sources)
