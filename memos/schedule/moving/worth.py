"""What moves of one tier are worth: uses to be expected, the seconds that each saves, the bytes that it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from memos.cube import Kind, Parent
from memos.schedule.eviction.entry import Entry
from memos.schedule.eviction.plan import plan_evictions
from memos.schedule.heat import Cooling
from memos.schedule.moving.move import Action, Move
from memos.schedule.moving.resident import Resident

#: How reasons call a cube of a tier.
_NAMES = {Kind.ACTIVATION: "a file", Kind.PARAMETRIC: "an adapter"}


@dataclass(frozen=True, slots=True)
class Worth:
    """Puts numbers to moves. ``saved`` gives the seconds that a use of some tokens in a cube of some bytes saves.

    ``policy`` says in which order cubes are given up.
    """

    tier: Kind
    cooling: Cooling
    saved: Callable[[int, int], float]
    policy: str = "density"

    def move(
        self, action: Action, heat: float, tokens: int, size: int, sources: Iterable[tuple[str, int]], what: str
    ) -> Move:
        """Return a move of so many tokens into, or from, so many bytes, and ``what`` it moves as its reason."""
        half_life_s = self.cooling.half_life_us / 1e6
        uses, saved = self.cooling.uses(heat, half_life_s), self.saved(tokens, size)
        return Move(
            action=action,
            tier=self.tier,
            sources=tuple(Parent(cube_id=cube_id, version=version) for cube_id, version in sources),
            uses=uses,
            seconds_saved=saved,
            bytes=size,
            reason=(
                f"{what}: {uses:.1f} uses expected within {half_life_s / 86_400:g} days, each saves {saved:.2f} s, "
                f"for {size / 1e6:.1f} MB"
            ),
        )

    def demotion(self, one: Resident, why: str) -> Move:
        """Return what gives a cube up."""
        what = f"{_NAMES[self.tier]} of {len(one.sources)} memories, {why}"
        move = self.move(Action.DEMOTE, one.heat, one.tokens, one.bytes, one.sources, what)
        return move.model_copy(update={"cube_id": one.cube_id, "codec": one.codec})

    def leaving(self, residents: Sequence[Resident], at: int) -> list[Move]:
        """Return the demotions that could be at a time (microseconds), in the order of the policy, with its reasons."""
        by_id = {one.cube_id: one for one in residents}
        going = plan_evictions(list(map(self._entry, residents)), 1 << 62, at / 1e6, policy=self.policy)
        return [self.demotion(by_id[str(one.entry.key)], one.reason) for one in going]

    def _entry(self, one: Resident) -> Entry:
        saved = max(0.0, self.saved(one.tokens, one.bytes))
        times = {"created_at": one.created_at / 1e6, "used_at": one.used_at / 1e6}
        return Entry(one.cube_id, one.bytes, saved, held=one.kept, uses=one.heat, **times)
