"""What is worth moving into adapters: KV files that are used so often that even training pays, and takes fewer bytes.

An adapter of facts takes no token of a prompt, and a KV file grows with its memories; but it takes minutes to train, so
its uses have to save those. When it is served, the KV file of the same memories is given up. What a gate refused once
is not tried again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from memos.cube import Kind
from memos.schedule.heat import Cooling
from memos.schedule.moving.costs import AdapterCosts
from memos.schedule.moving.fitting import fitted
from memos.schedule.moving.move import Action, Move
from memos.schedule.moving.resident import Resident
from memos.schedule.moving.worth import Worth


@dataclass(frozen=True, slots=True)
class Learning:
    """What a plan is made from, at a time ``at`` (microseconds).

    ``facts`` are the facts in the KV files whose every memory holds some; ``refused`` are sets of memories that a gate
    did not let pass. ``room`` is the bytes of adapters that may still be added, negative if there are too many.
    """

    files: Sequence[Resident]
    facts: Mapping[str, int]
    adapters: Sequence[Resident]
    refused: Collection[frozenset[str]]
    room: int
    at: int = 0


@dataclass(frozen=True, slots=True)
class AdapterPlanner:
    """Makes plans; equal situations have equal plans. ``files`` and ``adapters`` put numbers to moves of each tier."""

    cooling: Cooling
    costs: AdapterCosts
    files: Worth

    @property
    def adapters(self) -> Worth:
        """What moves of adapters are worth."""
        return Worth(Kind.PARAMETRIC, self.cooling, self.costs.saved, self.files.policy)

    def plan(self, now: Learning) -> list[Move]:
        """Return moves in the order in which they are to be carried out."""
        learnt = [one.memories for one in now.adapters]
        inside = {one.cube_id for one in now.files if any(one.memories <= held for held in learnt)}
        given_up = [
            self.files.demotion(one, "which an adapter holds")
            for one in now.files
            if one.cube_id in inside and not one.kept
        ]
        wanted = [
            self._promotion(one)
            for one in now.files
            if one.cube_id not in inside and 0 < now.facts.get(one.cube_id, 0) <= self.costs.facts
            if one.memories not in now.refused and self._pays(one)
        ]
        wanted.sort(key=lambda move: -move.density)
        return given_up + fitted(wanted, self.adapters.leaving(now.adapters, now.at), now.room)

    def _promotion(self, one: Resident) -> Move:
        what = f"{len(one.sources)} memories of a file of {one.bytes / 1e6:.1f} MB"
        return self.adapters.move(Action.PROMOTE, one.heat, one.tokens, self.costs.size, one.sources, what)

    def _pays(self, one: Resident) -> bool:
        """Whether its uses save more than its training takes, and more per byte than those of the file do."""
        move, file = self._promotion(one), self.files.demotion(one, "")
        return move.uses * move.seconds_saved > self.costs.training_s and move.density > file.density
