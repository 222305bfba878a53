"""Which adapters and cartridges a chat runs with: those asked for, or the one that holds what was recalled first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memos.cube import Scope
from memos.errors import InvalidInput
from memos.store.adapters import AdapterRecord, Payload

if TYPE_CHECKING:
    from memos.parametric.tier import ParametricTier


def choose(
    tier: ParametricTier, scope: Scope, base: str, note_ids: Sequence[str], asked: Sequence[str] | None
) -> list[AdapterRecord]:
    """Return what is asked for by id, or else the published one that holds the best of the recalled notes, if any does.

    One, for two that are added up fade (decision 019). Raises :class:`NotFound` and :class:`Conflict` for what is asked
    for and not served, and :class:`InvalidInput` for two cartridges, since a prompt has one beginning.
    """
    if asked is not None:
        records = [tier.named(scope, cube_id) for cube_id in dict.fromkeys(asked)]
        if sum(record.payload is Payload.CARTRIDGE for record in records) > 1:
            raise InvalidInput("a prompt can begin with one cartridge only")
        return records
    return _best_first(tier.published(scope, base, note_ids), note_ids)[:1]


def _best_first(records: Sequence[AdapterRecord], note_ids: Sequence[str]) -> list[AdapterRecord]:
    """Sort by the places at which the notes in them were recalled; of two that hold the same, the special one first."""
    places = {cube_id: place for place, cube_id in enumerate(note_ids)}

    def rank(record: AdapterRecord) -> tuple[list[int], int, str]:
        held = sorted(places[cube_id] for cube_id, _ in record.sources if cube_id in places)
        return [*held, len(places)], len(record.sources), record.cube_id

    return sorted(records, key=rank)
