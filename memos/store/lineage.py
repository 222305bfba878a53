"""Cubes made from notes, whatever their payload, within one namespace: header, lineage, and whether it still holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Table

from memos.clock import from_us
from memos.cube import RECALLABLE, Kind, MemCube, Scope, State
from memos.store.schema import cubes, parents, versions
from memos.store.scoped import IN_CHUNK, ScopedRepository

#: One exact version of a note, as ``(cube id, version)``.
Source = tuple[str, int]


@dataclass(frozen=True, slots=True)
class DerivedHeader:
    """What every cube of the upper tiers says of itself. ``source`` is how it came about: ``promote``, ``import``."""

    cube_id: str
    kind: Kind
    created_at: int
    sources: tuple[Source, ...]
    state: State = State.ACTIVATED
    source: str = "promote"


class LineageRepository(ScopedRepository):
    """What the repositories of the upper tiers share; a payload's ``table`` has a row for each cube, by ``cube_id``."""

    def live(self, sources: Collection[Source], scope: Scope, now: int) -> set[Source]:
        """Return which note versions still say what is said now, recallable, unexpired, in the scope's agent and run.

        A later version that evolution wrote says the same of when and what happened, so an earlier one lives on.
        """
        ids = sorted({cube_id for cube_id, _ in sources})
        current: dict[str, int] = {}
        for start in range(0, len(ids), IN_CHUNK):
            chunk = ids[start : start + IN_CHUNK]
            statement = self._select(cubes).where(cubes.c.id.in_(chunk), cubes.c.kind == Kind.PLAINTEXT.value)
            rows = self.connection.execute(statement)
            current.update((row.id, row.version) for row in rows if _holds(row, scope, now))
        same = {source for source in sources if current.get(source[0]) == source[1]}
        evolved = {source for source in sources if source[0] in current} - same
        return same | self._unchanged(evolved, current)

    def _unchanged(self, earlier: Collection[Source], current: Mapping[str, int]) -> set[Source]:
        """Return which of these earlier versions have the text and the event time of the current one."""
        ids = sorted({cube_id for cube_id, _ in earlier})
        said: dict[Source, tuple[str, int | None]] = {}
        for start in range(0, len(ids), IN_CHUNK):
            columns = (versions.c.cube_id, versions.c.version, versions.c.digest, versions.c.event_time)
            statement = self._select(versions, *columns).where(versions.c.cube_id.in_(ids[start : start + IN_CHUNK]))
            rows = self.connection.execute(statement)
            said.update(((row.cube_id, row.version), (row.digest, row.event_time)) for row in rows)
        return {one for one in earlier if one in said and said[one] == said[one[0], current[one[0]]]}

    def said(self, sources: Collection[Source]) -> dict[Source, Row[Any]]:
        """Return what note versions say and from when: rows with ``text``, ``event_time`` and ``valid_from``."""
        columns = (versions.c.cube_id, versions.c.version, versions.c.text, versions.c.event_time)
        ids, found = sorted({cube_id for cube_id, _ in sources}), {}
        for start in range(0, len(ids), IN_CHUNK):
            chosen = self._select(versions, *columns, versions.c.valid_from)
            for row in self.connection.execute(chosen.where(versions.c.cube_id.in_(ids[start : start + IN_CHUNK]))):
                if (row.cube_id, row.version) in sources:
                    found[row.cube_id, row.version] = row
        return found

    # ------------------------------------------------------------ for the repositories

    def _insert_cube(self, header: DerivedHeader, revision: int) -> None:
        self._insert(cubes, [_cube_row(header, revision)])
        self._insert(parents, _parent_rows(header))

    def _remove_cubes(self, table: Table, cube_ids: Sequence[str]) -> list[Row[Any]]:
        """Delete the cubes of a payload's table with their lineage; return their rows in it."""
        removed: list[Row[Any]] = []
        for start in range(0, len(cube_ids), IN_CHUNK):
            chunk = cube_ids[start : start + IN_CHUNK]
            found = self.connection.execute(self._select(table).where(table.c.cube_id.in_(chunk))).all()
            gone = [row.cube_id for row in found]
            self.connection.execute(self._delete(parents).where(parents.c.cube_id.in_(gone)))
            self.connection.execute(self._delete(table).where(table.c.cube_id.in_(gone)))
            self.connection.execute(self._delete(cubes).where(cubes.c.id.in_(gone)))
            removed += found
        return removed

    def _made_from(self, table: Table, note_ids: Sequence[str]) -> set[str]:
        """Return the cubes of a payload's table that were made from one of these notes, whichever version."""
        found: set[str] = set()
        for start in range(0, len(note_ids), IN_CHUNK):
            chunk = note_ids[start : start + IN_CHUNK]
            statement = (
                self._select(parents, parents.c.cube_id)
                .join_from(parents, table, table.c.cube_id == parents.c.cube_id)
                .where(parents.c.parent_id.in_(chunk))
            )
            found.update(self.connection.scalars(statement))
        return found

    def _sources(self, cube_ids: Sequence[str]) -> dict[str, tuple[Source, ...]]:
        found: dict[str, list[Source]] = {}
        for start in range(0, len(cube_ids), IN_CHUNK):
            chunk = cube_ids[start : start + IN_CHUNK]
            statement = self._select(parents).where(parents.c.cube_id.in_(chunk)).order_by(parents.c.position)
            for row in self.connection.execute(statement):
                found.setdefault(row.cube_id, []).append((row.parent_id, row.parent_version))
        return {cube_id: tuple(sources) for cube_id, sources in found.items()}

    def _cube(
        self, cube_id: str, scope: Scope, *, digest: str, metadata: Mapping[str, Any], sources: Sequence[Source]
    ) -> MemCube:
        """Return a cube as callers see cubes; ``metadata`` describes its payload."""
        row = self.connection.execute(self._select(cubes).where(cubes.c.id == cube_id)).one()
        made = from_us(row.created_at)
        return MemCube.model_validate(
            {
                "id": row.id,
                "scope": {"tenant": scope.tenant, "user_id": scope.user_id},
                "kind": row.kind,
                "state": row.state,
                "version": row.version,
                "digest": digest,
                "metadata": metadata,
                "time": {"created_at": made, "updated_at": from_us(row.updated_at), "valid_from": made},
                "provenance": {
                    "source": row.source,
                    "infer": row.infer,
                    "parents": [{"cube_id": note, "version": version} for note, version in sources],
                },
            }
        )


def _holds(row: Row[Any], scope: Scope, now: int) -> bool:
    return (
        State(row.state) in RECALLABLE
        and (row.expires_at is None or row.expires_at > now)
        and (row.valid_to is None or row.valid_to > now)
        and scope.agent_id in (None, row.agent_id)
        and scope.run_id in (None, row.run_id)
    )


def _parent_rows(header: DerivedHeader) -> list[dict[str, Any]]:
    return [
        {"cube_id": header.cube_id, "parent_id": note, "parent_version": version, "position": position}
        for position, (note, version) in enumerate(header.sources)
    ]


def _cube_row(header: DerivedHeader, revision: int) -> dict[str, Any]:
    return {
        "id": header.cube_id,
        "kind": header.kind.value,
        "state": header.state.value,
        "version": 1,
        "revision": revision,
        "agent_id": None,
        "run_id": None,
        "source": header.source,
        "author": None,
        "infer": False,
        "sensitivity": "normal",
        "pinned": False,
        "frozen": False,
        "acl": [],
        "created_at": header.created_at,
        "updated_at": header.created_at,
        "valid_to": None,
        "expires_at": None,
        "recall_count": 0,
        "last_recalled_at": None,
        "heat": 0.0,
        "scribe": None,
        "remark": None,
    }
