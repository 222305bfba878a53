"""What is worth moving into KV files: seconds saved x expected uses / bytes, within the bytes that there are.

A bundle of hot memories becomes a KV file if the uses to be expected save more than making it costs, and if it fits:
beside what is there, or in the place of files that are worth less per byte. Which files are given up first, for that or
because more bytes are taken than may be, says an eviction policy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from memos.cube import Kind
from memos.schedule.heat import Cooling
from memos.schedule.moving.bundles import Bundling, HotNote
from memos.schedule.moving.costs import Costs
from memos.schedule.moving.fitting import fitted
from memos.schedule.moving.move import Action, Move
from memos.schedule.moving.resident import Resident
from memos.schedule.moving.worth import Worth


@dataclass(frozen=True, slots=True)
class Situation:
    """What a plan is made from, at a time ``at`` (microseconds).

    ``room`` is the bytes that may still be added; negative if there are too many. ``held`` are memories that an adapter
    holds, which need no file.
    """

    notes: Sequence[HotNote]
    linked: Mapping[str, Collection[str]]
    residents: Sequence[Resident]
    room: int
    at: int = 0
    held: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Planner:
    """Makes plans; equal situations have equal plans. ``policy`` says in which order files are given up."""

    cooling: Cooling
    costs: Costs
    bundling: Bundling
    policy: str = "density"

    @property
    def worth(self) -> Worth:
        """What moves of KV files are worth."""
        return Worth(Kind.ACTIVATION, self.cooling, self.costs.saved, self.policy)

    def plan(self, now: Situation) -> list[Move]:
        """Return moves in the order in which they are to be carried out."""
        covered = {cube_id for one in now.residents for cube_id in one.memories} | set(now.held)
        free = [note for note in now.notes if note.id not in covered]
        wanted = sorted(map(self._promotion, self.bundling.bundles(free, now.linked)), key=lambda one: -one.density)
        return fitted(filter(self._pays, wanted), self.worth.leaving(now.residents, now.at), now.room)

    def _pays(self, move: Move) -> bool:
        """Whether the uses to be expected save more than is spent on making it, which is to compute it once."""
        computed = move.bytes / self.costs.token_bytes * self.costs.prefill_s
        return move.seconds_saved > 0 and move.uses * move.seconds_saved > computed

    def _promotion(self, bundle: Sequence[HotNote]) -> Move:
        tokens = sum(note.tokens for note in bundle)
        size = self.costs.bytes(tokens)
        heat = sum(note.heat for note in bundle) / len(bundle)  # recalled together, each use counts once in all of them
        sources = ((note.id, note.version) for note in bundle)
        return self.worth.move(Action.PROMOTE, heat, tokens, size, sources, f"{len(bundle)} memories")
