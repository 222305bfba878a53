"""What tables say of memories by id, within one namespace: before they are deleted, and whether anything is left."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from sqlalchemy import ColumnElement, func, or_

from memos.store.exports import Stored
from memos.store.jobs import JobRepository
from memos.store.records import Idempotency
from memos.store.schema import activations, adapters, cubes, holds, influences, links, parents, vectors, versions
from memos.store.scoped import IN_CHUNK, ScopedRepository

#: Columns that hold the ids of cubes, by table. The outbox, the audit and the registry of exports name what is gone.
_NAMES: dict[str, tuple[ColumnElement[str], ...]] = {
    "cubes": (cubes.c.id,),
    "versions": (versions.c.cube_id,),
    "vectors": (vectors.c.cube_id,),
    "links": (links.c.source_id, links.c.target_id),
    "parents": (parents.c.cube_id, parents.c.parent_id),
    "influences": (influences.c.cube_id, influences.c.source_id),
    "activations": (activations.c.cube_id,),
    "adapters": (adapters.c.cube_id,),
    "holds": (holds.c.cube_id,),
}


class TraceRepository(ScopedRepository):
    """Looks memories up wherever they may be."""

    def stored(self, cube_ids: Sequence[str]) -> list[Stored]:
        """Return since when memories are here, and where."""
        columns = (cubes.c.id, cubes.c.created_at, cubes.c.agent_id, cubes.c.run_id)
        return [
            Stored(*row)
            for chunk in _chunks(cube_ids)
            for row in self.connection.execute(self._select(cubes, *columns).where(cubes.c.id.in_(chunk)))
        ]

    def digests(self, cube_ids: Sequence[str]) -> set[str]:
        """Return the digests of everything that memories say, in any version."""
        return {
            digest
            for chunk in _chunks(cube_ids)
            for digest in self.connection.scalars(
                self._select(versions, versions.c.digest).where(versions.c.cube_id.in_(chunk))
            )
        }

    def every_digest(self) -> Iterator[tuple[str, str]]:
        """Yield the digest of every version of every memory, with the memory's id."""
        for row in self.connection.execute(self._select(versions, versions.c.cube_id, versions.c.digest)):
            yield row.cube_id, row.digest

    def left(self, cube_ids: Collection[str]) -> dict[str, int]:
        """Return how many rows name one of some cubes, by table, where there are any."""
        found = {table: self._naming(columns, sorted(cube_ids)) for table, columns in _NAMES.items()}
        found["jobs"] = JobRepository(self.connection, self.namespace_id).naming(cube_ids)
        found["idempotency"] = Idempotency(self.connection, self.namespace_id).naming(cube_ids)
        return {table: count for table, count in found.items() if count}

    def _naming(self, columns: Sequence[ColumnElement[str]], cube_ids: Sequence[str]) -> int:
        table = columns[0].table
        return sum(
            self.connection.scalar(
                self._select(table, func.count()).where(or_(*(column.in_(chunk) for column in columns)))
            )
            or 0
            for chunk in _chunks(cube_ids)
        )


def _chunks(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), IN_CHUNK):
        yield items[start : start + IN_CHUNK]
