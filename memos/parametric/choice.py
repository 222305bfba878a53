"""Which adapters and cartridges a chat runs with: those asked for, or those that hold what was recalled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memos.cube import Scope
from memos.errors import InvalidInput
from memos.store.adapters import AdapterRecord, Payload

if TYPE_CHECKING:
    from memos.parametric.tier import ParametricTier

#: Adapters that are added up for one request without being asked for: what each was trained on fades with every other.
MOST = 3


def choose(
    tier: ParametricTier, scope: Scope, base: str, note_ids: Sequence[str], asked: Sequence[str] | None
) -> list[AdapterRecord]:
    """Return what is asked for by id, or else the published ones that hold the best recalled notes.

    One that holds nothing beyond what those before it hold is left out, and so is a second cartridge, for a prompt has
    one beginning. Raises :class:`NotFound` and :class:`Conflict` for what is asked for and not served, and
    :class:`InvalidInput` for two cartridges.
    """
    if asked is not None:
        records = [tier.named(scope, cube_id) for cube_id in dict.fromkeys(asked)]
        if sum(record.payload is Payload.CARTRIDGE for record in records) > 1:
            raise InvalidInput("a prompt can begin with one cartridge only")
        return records
    held: set[str] = set()
    chosen: list[AdapterRecord] = []
    for record in _by_cover(tier.published(scope, base, note_ids), note_ids):
        covers = {cube_id for cube_id, _ in record.sources} & set(note_ids)
        second = record.payload is Payload.CARTRIDGE and any(one.payload is Payload.CARTRIDGE for one in chosen)
        if covers - held and not second and len(chosen) < MOST:
            chosen.append(record)
            held |= covers
    return chosen


def _by_cover(records: Sequence[AdapterRecord], note_ids: Sequence[str]) -> list[AdapterRecord]:
    """Return those that hold the best recalled notes first, the more special one of two that hold the same.

    The n-th note counts 1/n: an answer is mostly in the first, and many adapters hold some of the others.
    """
    worth = {cube_id: 1 / place for place, cube_id in enumerate(note_ids, 1)}

    def rank(record: AdapterRecord) -> tuple[float, int, str]:
        held = {cube_id for cube_id, _ in record.sources}
        return -sum(worth.get(cube_id, 0.0) for cube_id in held), len(record.sources), record.cube_id

    return sorted(records, key=rank)
