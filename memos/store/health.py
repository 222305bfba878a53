"""Counting what should not be there, within one namespace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, and_, func, or_, tuple_

from memos.cube import Kind
from memos.store.schema import cubes, links, vectors, versions
from memos.store.scoped import ScopedRepository

_IS_NOTE = cubes.c.kind == Kind.PLAINTEXT.value


class Health(ScopedRepository):
    """Compares the tables of one namespace with each other."""

    def memories(self) -> int:
        """Return the number of memories."""
        return self.connection.scalar(self._select(cubes, func.count()).where(_IS_NOTE)) or 0

    def orphans(self) -> int:
        """Return the number of versions, vectors and links whose memory or version is gone."""
        known = self._select(cubes, cubes.c.id)
        made_for = and_(versions.c.cube_id == vectors.c.cube_id, versions.c.version == vectors.c.version)
        statements = (
            self._select(versions, func.count()).where(versions.c.cube_id.not_in(known)),
            self._select(vectors, func.count())
            .outerjoin_from(vectors, versions, made_for)
            .where(versions.c.cube_id.is_(None)),
            self._select(links, func.count()).where(
                or_(links.c.source_id.not_in(known), links.c.target_id.not_in(known))
            ),
        )
        return sum(self.connection.scalar(statement) or 0 for statement in statements)

    def headless(self) -> int:
        """Return the number of cubes whose current version is missing: they cannot be read."""
        current = and_(versions.c.cube_id == cubes.c.id, versions.c.version == cubes.c.version)
        statement = (
            self._select(cubes, func.count())
            .outerjoin_from(cubes, versions, current)
            .where(_IS_NOTE, versions.c.cube_id.is_(None))
        )
        return self.connection.scalar(statement) or 0

    def unembedded(self, embedder_id: int) -> int:
        """Return the number of versions an embedder has made no vector of."""
        made = and_(
            vectors.c.cube_id == versions.c.cube_id,
            vectors.c.version == versions.c.version,
            vectors.c.embedder_id == embedder_id,
        )
        statement = (
            self._select(versions, func.count())
            .outerjoin_from(versions, vectors, made)
            .where(vectors.c.cube_id.is_(None))
        )
        return self.connection.scalar(statement) or 0

    def texts(self, cube_id: str, version: int, limit: int) -> Sequence[Row[Any]]:
        """Return up to ``limit`` versions behind one: their text, its digest and its terms, in the order of cubes."""
        columns = (versions.c.cube_id, versions.c.version, versions.c.text, versions.c.digest, versions.c.terms)
        place = tuple_(versions.c.cube_id, versions.c.version)
        behind = self._select(versions, *columns).where(place > tuple_(cube_id, version))
        return self.connection.execute(behind.order_by(versions.c.cube_id, versions.c.version).limit(limit)).all()

    def of_other_embedders(self, embedder_id: int) -> int:
        """Return the number of vectors that another embedder made."""
        statement = self._select(vectors, func.count()).where(vectors.c.embedder_id != embedder_id)
        return self.connection.scalar(statement) or 0
