"""Memories that were written from several, within one namespace, and which could be: see memos/schedule/fusing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, or_

from memos.cube import FUSION, Descriptor, Kind, State
from memos.store.cube_rows import Note, cube_row, first_version, vector_row
from memos.store.lineage import Source
from memos.store.schema import adapters, cubes, holds, parents, vectors, versions
from memos.store.scoped import IN_CHUNK, ScopedRepository

#: States of memories that may be fused. What was fused has another one.
LOOSE = (State.GENERATED, State.ACTIVATED)


@dataclass(frozen=True, slots=True)
class Fused:
    """A memory written from ``sources``, with the note that goes with it.

    ``enriched`` is the unit vector of text and note, float32 ``[dimension]``. It is as hot as they were: ``heat`` as of
    ``used_at`` (microseconds since the epoch).
    """

    note: Note
    descriptor: Descriptor
    enriched: NDArray[np.float32]
    sources: tuple[Source, ...]
    scribe: str
    remark: str | None
    sensitivity: str
    acl: tuple[str, ...]
    heat: float
    used_at: int | None


class FusionRepository(ScopedRepository):
    """Reads and writes fused memories. Callers that write hold the namespace's lock and pass its new revision."""

    def add(self, fused: Fused, revision: int, embedder_id: int) -> None:
        """Write a fused memory; its sources stay as they are."""
        note = fused.note
        header = {
            "state": State.MERGED.value,
            "scribe": fused.scribe,
            "remark": fused.remark,
            "sensitivity": fused.sensitivity,
            "acl": list(fused.acl),
            "heat": fused.heat,
            "last_recalled_at": fused.used_at,
        }
        self._insert(cubes, [{**cube_row(note, revision), **header}])
        self._insert(versions, [{**first_version(note), **fused.descriptor.model_dump(mode="json")}])
        self._insert(vectors, [vector_row(note.id, 1, note.vector, fused.enriched, embedder_id=embedder_id)])
        rows = [
            {"cube_id": note.id, "parent_id": source, "parent_version": version, "position": position}
            for position, (source, version) in enumerate(fused.sources)
        ]
        self._insert(parents, rows)

    def of(self, cube_ids: Sequence[str]) -> dict[str, list[str]]:
        """Return the sources of those of some memories that were fused, in order, by id."""
        found: dict[str, list[str]] = {}
        for start in range(0, len(cube_ids), IN_CHUNK):
            chunk = self._fusions().where(parents.c.cube_id.in_(cube_ids[start : start + IN_CHUNK]))
            for row in self.connection.execute(chunk.order_by(parents.c.position)):
                found.setdefault(row.cube_id, []).append(row.parent_id)
        return found

    def over(self, source_id: str) -> list[str]:
        """Return the memories that were fused from this one and others."""
        rows = self.connection.execute(self._fusions().where(parents.c.parent_id == source_id))
        return [row.cube_id for row in rows]

    def sources(self, cube_id: str) -> list[str]:
        """Return the memories that a cube of any tier was made from, or stands for, in order."""
        known = self._select(parents, parents.c.parent_id).where(parents.c.cube_id == cube_id)
        return list(dict.fromkeys(self.connection.scalars(known.order_by(parents.c.position))))

    def loose(self, most: int, *, waiting: bool) -> list[str]:
        """Return memories that may be fused, the hottest first, then the latest.

        Those that wait for a note are among them if ``waiting``.
        """
        statement = self._loose()
        if not waiting:
            statement = statement.where(or_(~cubes.c.infer, cubes.c.scribe.is_not(None)))
        return list(self.connection.scalars(statement.order_by(cubes.c.heat.desc(), cubes.c.id.desc()).limit(most)))

    def still_loose(self, cube_ids: Collection[str]) -> set[str]:
        """Return which of some memories may be fused."""
        return set(self.connection.scalars(self._loose().where(cubes.c.id.in_(list(cube_ids)))))

    def _fusions(self) -> Select[Any]:
        known = self._select(parents, parents.c.cube_id, parents.c.parent_id)
        return known.join_from(parents, cubes, cubes.c.id == parents.c.cube_id).where(
            cubes.c.kind == Kind.PLAINTEXT.value, cubes.c.source == FUSION
        )

    def _loose(self) -> Select[Any]:
        """Memories that hold, that nobody wants to stay as they are, and that no adapter would be lost with."""
        held = self._select(holds, holds.c.id).where(or_(holds.c.cube_id.is_(None), holds.c.cube_id == cubes.c.id))
        taught = self._select(parents, parents.c.cube_id).join_from(
            parents, adapters, adapters.c.cube_id == parents.c.cube_id
        )
        return self._select(cubes, cubes.c.id).where(
            cubes.c.kind == Kind.PLAINTEXT.value,
            cubes.c.state.in_([state.value for state in LOOSE]),
            ~cubes.c.pinned,
            ~cubes.c.frozen,
            cubes.c.source != FUSION,
            cubes.c.expires_at.is_(None),
            cubes.c.valid_to.is_(None),
            ~held.exists(),
            ~taught.where(parents.c.parent_id == cubes.c.id).exists(),
        )
