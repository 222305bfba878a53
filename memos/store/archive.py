"""Whole memories with all their versions and links, within one namespace: what exports read and imports restore.

Rows go in and out as the tables hold them; :mod:`memos.transfer.rows` gives them meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, Select, func

from memos.cube import Kind, Scope
from memos.store.schema import cubes, influences, links, parents, vectors, versions
from memos.store.scoped import IN_CHUNK, ScopedRepository

TableRow = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of the tables that make up memories, all but ``namespace_id``."""

    cubes: list[TableRow] = field(default_factory=list)
    versions: list[TableRow] = field(default_factory=list)
    vectors: list[TableRow] = field(default_factory=list)
    links: list[TableRow] = field(default_factory=list)
    parents: list[TableRow] = field(default_factory=list)
    influences: list[TableRow] = field(default_factory=list)


class Archive(ScopedRepository):
    """Reads and restores plaintext memories whole; derived tiers are rebuilt, never carried."""

    def count(self, scope: Scope) -> int:
        """Return the number of memories, of one agent or run if the scope names one."""
        return self.connection.scalar(self._of(scope, func.count())) or 0

    def page(self, scope: Scope, after: str | None, limit: int) -> Sequence[Row[Any]]:
        """Return up to ``limit`` header rows with ids above ``after``, in order of creation."""
        statement = self._of(scope).order_by(cubes.c.id).limit(limit)
        if after is not None:
            statement = statement.where(cubes.c.id > after)
        return self.connection.execute(statement).all()

    def versions(self, cube_ids: Sequence[str]) -> Sequence[Row[Any]]:
        """Return all versions of the given cubes, oldest first."""
        statement = (
            self._select(versions)
            .where(versions.c.cube_id.in_(cube_ids))
            .order_by(versions.c.cube_id, versions.c.version)
        )
        return self.connection.execute(statement).all()

    def links(self, cube_ids: Sequence[str]) -> Sequence[Row[Any]]:
        """Return the links that start at the given cubes."""
        statement = (
            self._select(links)
            .where(links.c.source_id.in_(cube_ids))
            .order_by(links.c.source_id, links.c.target_id, links.c.type)
        )
        return self.connection.execute(statement).all()

    def sources(self, cube_ids: Sequence[str]) -> Sequence[Row[Any]]:
        """Return the near-duplicates that the given memories stand for."""
        statement = (
            self._select(parents).where(parents.c.cube_id.in_(cube_ids)).order_by(parents.c.cube_id, parents.c.position)
        )
        return self.connection.execute(statement).all()

    def influences(self, cube_ids: Sequence[str]) -> Sequence[Row[Any]]:
        """Return which other memories the notes of the given ones say something of."""
        statement = (
            self._select(influences)
            .where(influences.c.cube_id.in_(cube_ids))
            .order_by(influences.c.cube_id, influences.c.version, influences.c.source_id)
        )
        return self.connection.execute(statement).all()

    def present(self, cube_ids: Sequence[str]) -> set[str]:
        """Return which of the given ids this namespace holds."""
        found: set[str] = set()
        for start in range(0, len(cube_ids), IN_CHUNK):
            chunk = cube_ids[start : start + IN_CHUNK]
            found.update(self.connection.scalars(self._select(cubes, cubes.c.id).where(cubes.c.id.in_(chunk))))
        return found

    def restore(self, rows: Rows) -> None:
        """Write memories with their history as they were; ids must be free."""
        self._insert(cubes, rows.cubes)
        self._insert(versions, rows.versions)
        self._insert(vectors, rows.vectors)
        self._insert(links, rows.links)
        self._insert(parents, rows.parents)
        self._insert(influences, rows.influences)

    def _of(self, scope: Scope, *columns: Any) -> Select[Any]:
        statement = self._select(cubes, *columns).where(cubes.c.kind == Kind.PLAINTEXT.value)
        if scope.agent_id is not None:
            statement = statement.where(cubes.c.agent_id == scope.agent_id)
        if scope.run_id is not None:
            statement = statement.where(cubes.c.run_id == scope.run_id)
        return statement
