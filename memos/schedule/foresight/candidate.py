"""What could be brought into host memory for one user, and which of it a use of memories needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from memos.activation.bundle import MIN_SHARE
from memos.cube import Kind


@dataclass(frozen=True, slots=True)
class Candidate:
    """A KV file or an adapter: its cube, the memories it was made from and how often it was used, older uses less.

    ``key`` names its file, ``bytes`` is what it takes in host memory, ``file_bytes`` what has to be read for that.
    ``digest`` is the content of an adapter.
    """

    cube_id: str
    kind: Kind
    key: str
    bytes: int
    file_bytes: int
    notes: frozenset[str]
    heat: float = 0.0
    digest: str = ""


@dataclass(frozen=True)
class Catalogue:
    """The candidates of one user, by the memories they were made from."""

    candidates: tuple[Candidate, ...] = ()

    @cached_property
    def _holding(self) -> dict[str, list[Candidate]]:
        found: dict[str, list[Candidate]] = {}
        for one in self.candidates:
            for note in one.notes:
                found.setdefault(note, []).append(one)
        return found

    def needed(self, ids: Sequence[str]) -> str | None:
        """Return the cube that a chat about these memories, best first, runs with, if any; as a chat chooses it.

        That is the KV file that covers most of them, if it covers enough, else the adapter that holds the best one.
        """
        shared: dict[Candidate, int] = {}
        for cube_id in ids:
            for one in self._holding.get(cube_id, ()):
                shared[one] = shared.get(one, 0) + 1
        files = [one for one, count in shared.items() if one.kind is Kind.ACTIVATION and count >= MIN_SHARE * len(ids)]
        if files:
            return min(files, key=lambda one: (-shared[one], one.bytes, one.cube_id)).cube_id
        adapters = [one for one in shared if one.kind is Kind.PARAMETRIC]
        best = min(adapters, key=lambda one: (_place(one, ids), len(one.notes), one.cube_id), default=None)
        return None if best is None else best.cube_id

    def linked(self, links: Iterable[tuple[str, float]]) -> dict[str, float]:
        """Return which share of the strength of some links, ``(memory, strength)``, leads into each candidate."""
        into: dict[str, float] = {}
        total = 0.0
        for cube_id, strength in links:
            total += strength
            holding = self._holding.get(cube_id, ())
            for one in holding:
                into[one.cube_id] = into.get(one.cube_id, 0.0) + strength / len(holding)
        return {cube_id: strength / total for cube_id, strength in into.items()} if total else {}


def _place(candidate: Candidate, ids: Sequence[str]) -> int:
    """Return how good the best memory is that a candidate holds."""
    return next(place for place, cube_id in enumerate(ids) if cube_id in candidate.notes)
