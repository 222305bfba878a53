"""What is worth moving: seconds saved x expected uses / bytes, within the bytes that there are.

A bundle of hot memories becomes a KV file if the uses to be expected save more than making it costs, and if it fits:
beside what is there, or in the place of files that are worth less per byte. Which files are given up first, for that or
because more bytes are taken than may be, says an eviction policy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from memos.cube import Kind, Parent
from memos.schedule.eviction.entry import Entry
from memos.schedule.eviction.plan import plan_evictions
from memos.schedule.heat import Cooling
from memos.schedule.moving.bundles import Bundling, HotNote
from memos.schedule.moving.costs import Costs
from memos.schedule.moving.move import Action, Move


@dataclass(frozen=True, slots=True)
class Resident:
    """A KV file: heat by now, size, when it was made and last used (microseconds), and whether it has to stay."""

    cube_id: str
    heat: float
    tokens: int
    bytes: int
    codec: str
    sources: tuple[tuple[str, int], ...]
    created_at: int = 0
    used_at: int = 0
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Situation:
    """What a plan is made from, at a time ``at`` (microseconds).

    ``room`` is the bytes that may still be added; negative if there are too many.
    """

    notes: Sequence[HotNote]
    linked: Mapping[str, Collection[str]]
    residents: Sequence[Resident]
    room: int
    at: int = 0


@dataclass(frozen=True, slots=True)
class Planner:
    """Makes plans; equal situations have equal plans. ``policy`` says in which order files are given up."""

    cooling: Cooling
    costs: Costs
    bundling: Bundling
    policy: str = "density"

    def plan(self, now: Situation) -> list[Move]:
        """Return moves in the order in which they are to be carried out."""
        covered = {cube_id for one in now.residents for cube_id, _ in one.sources}
        free = [note for note in now.notes if note.id not in covered]
        wanted = sorted(map(self._promotion, self.bundling.bundles(free, now.linked)), key=lambda one: -one.density)
        leaving = self._leaving(now)
        moves, room = [], now.room
        while leaving and room < 0:
            moves.append(leaving.pop(0))
            room += moves[-1].bytes
        for move in wanted:
            if not self._pays(move):
                continue
            given_up = _room_for(move, leaving, room)
            if given_up is None:
                continue
            moves += [*given_up, move]
            leaving = leaving[len(given_up) :]
            room += sum(one.bytes for one in given_up) - move.bytes
        return moves

    def _pays(self, move: Move) -> bool:
        """Whether the uses to be expected save more than is spent on making it, which is to compute it once."""
        computed = move.bytes / self.costs.token_bytes * self.costs.prefill_s
        return move.seconds_saved > 0 and move.uses * move.seconds_saved > computed

    def _promotion(self, bundle: Sequence[HotNote]) -> Move:
        tokens = sum(note.tokens for note in bundle)
        size = self.costs.bytes(tokens)
        heat = sum(note.heat for note in bundle) / len(bundle)  # recalled together, each use counts once in all of them
        return self._valued(
            Action.PROMOTE, heat, tokens, size, ((note.id, note.version) for note in bundle), f"{len(bundle)} memories"
        )

    def _leaving(self, now: Situation) -> list[Move]:
        """Return the demotions that could be, in the order of the policy, with its reasons."""
        residents = {one.cube_id: one for one in now.residents}
        going = plan_evictions(list(map(self._entry, now.residents)), 1 << 62, now.at / 1e6, policy=self.policy)
        return [self._demotion(residents[str(one.entry.key)], one.reason) for one in going]

    def _entry(self, one: Resident) -> Entry:
        saved = max(0.0, self.costs.saved(one.tokens, one.bytes))
        times = {"created_at": one.created_at / 1e6, "used_at": one.used_at / 1e6}
        return Entry(one.cube_id, one.bytes, saved, held=one.kept, uses=one.heat, **times)

    def _demotion(self, one: Resident, why: str) -> Move:
        what = f"a file of {len(one.sources)} memories, {why}"
        move = self._valued(Action.DEMOTE, one.heat, one.tokens, one.bytes, one.sources, what)
        return move.model_copy(update={"cube_id": one.cube_id, "codec": one.codec})

    def _valued(
        self, action: Action, heat: float, tokens: int, size: int, sources: Iterable[tuple[str, int]], what: str
    ) -> Move:
        half_life_s = self.cooling.half_life_us / 1e6
        uses, saved = self.cooling.uses(heat, half_life_s), self.costs.saved(tokens, size)
        return Move(
            action=action,
            tier=Kind.ACTIVATION,
            sources=tuple(Parent(cube_id=cube_id, version=version) for cube_id, version in sources),
            uses=uses,
            seconds_saved=saved,
            bytes=size,
            reason=(
                f"{what}: {uses:.1f} uses expected within {half_life_s / 86_400:g} days, each saves {saved:.2f} s, "
                f"for {size / 1e6:.1f} MB"
            ),
        )


def _room_for(move: Move, leaving: Sequence[Move], room: int) -> list[Move] | None:
    """Return which files to give up for a promotion; ``None`` if one of them is worth as much per byte."""
    given_up: list[Move] = []
    for one in leaving:
        if room >= move.bytes:
            break
        if one.density >= move.density:
            return None
        given_up.append(one)
        room += one.bytes
    return given_up if room >= move.bytes else None
