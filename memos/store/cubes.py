"""Cubes, their versions, vectors, lineage and links, within one namespace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Row, ScalarSelect, Select, and_, bindparam, case, func, or_

from memos.cube import (
    FUSION,
    CubeVersion,
    Kind,
    MemCube,
    Scope,
    State,
)
from memos.store.cube_rows import (
    CONTENT,
    HEADER,
    CubeBuilder,
    Embedded,
    Note,
    Unembedded,
    cube_row,
    first_version,
    unembedded,
    vector_row,
    version_from_row,
)
from memos.store.mixture import FLOAT32, mixture
from memos.store.schema import cubes, influences, links, parents, vectors, versions
from memos.store.scoped import ScopedRepository

IN_CHUNK = 500  # bound variables per IN list; SQLite's compiled limit is far above, its planner's comfort is not

_IS_NOTE = cubes.c.kind == Kind.PLAINTEXT.value
_IS_CURRENT = and_(versions.c.cube_id == cubes.c.id, versions.c.version == cubes.c.version)


class CubeRepository(ScopedRepository):
    """Reads and writes the cubes of one namespace."""

    _FOUND = (
        ScopedRepository._prepared(cubes, *HEADER, *CONTENT)
        .join_from(cubes, versions, _IS_CURRENT)
        .where(cubes.c.id.in_(bindparam("ids", expanding=True)))
    )

    _STANDINGS = ScopedRepository._prepared(
        cubes, cubes.c.id, cubes.c.version, (cubes.c.infer & cubes.c.scribe.is_(None)).label("waiting")
    ).where(cubes.c.id.in_(bindparam("ids", expanding=True)))

    # ------------------------------------------------------------ writing

    def insert(self, notes: Sequence[Note], revision: int, embedder_id: int) -> None:
        """Write new notes as version 1."""
        self._insert(cubes, [cube_row(note, revision) for note in notes])
        self._insert(versions, [first_version(note) for note in notes])
        self._insert(vectors, [vector_row(note.id, 1, note.vector, embedder_id=embedder_id) for note in notes])

    def add_version(self, cube: MemCube, note: Note, revision: int, embedder_id: int, reason: str) -> None:
        """Write ``note`` as the version after ``cube.version`` and point the header at it."""
        version = cube.version + 1
        row = {**first_version(note), "version": version, "cube_id": cube.id, "reason": reason}
        self._insert(versions, [row])
        self._insert(vectors, [vector_row(cube.id, version, note.vector, embedder_id=embedder_id)])
        fresh = {"scribe": None, "remark": None, "valid_to": None}  # what was said of the old text, and until when
        self._change(cube.id, revision, version=version, updated_at=note.created_at, **fresh)

    def set_terms(self, cube_id: str, version: int, terms: str, revision: int) -> None:
        """Write the terms of a version's text anew; readers of the namespace follow."""
        one = self._update(versions).where(versions.c.cube_id == cube_id, versions.c.version == version)
        self.connection.execute(one.values(terms=terms))
        self._change(cube_id, revision)

    def set_state(self, cube_id: str, state: State, revision: int, at: int) -> None:
        """Record a state move that :func:`memos.cube.move` has allowed."""
        self._change(cube_id, revision, state=state.value, updated_at=at)

    def _change(self, cube_id: str, revision: int, **values: Any) -> None:
        statement = self._update(cubes).where(cubes.c.id == cube_id).values(revision=revision, **values)
        self.connection.execute(statement)

    def add_vectors(self, rows: Iterable[Embedded], embedder_id: int) -> None:
        """Write vectors of another embedder beside the present ones."""
        self._insert(vectors, [vector_row(*row, embedder_id=embedder_id) for row in rows])

    def drop_vectors(self, keep_embedder_id: int) -> None:
        """Remove the vectors of every embedder but one."""
        self.connection.execute(self._delete(vectors).where(vectors.c.embedder_id != keep_embedder_id))

    def delete(self, cube_ids: Sequence[str]) -> dict[str, int]:
        """Remove cubes with everything hanging on them; return the rows removed by table."""
        removed = {"cubes": 0, "versions": 0, "vectors": 0, "links": 0}
        for chunk in _chunks(cube_ids):
            removed["links"] += self._remove(
                self._delete(links).where(or_(links.c.source_id.in_(chunk), links.c.target_id.in_(chunk)))
            )
            self._remove(self._delete(parents).where(or_(parents.c.cube_id.in_(chunk), parents.c.parent_id.in_(chunk))))
            self._remove(self._delete(influences).where(influences.c.cube_id.in_(chunk)))
            removed["vectors"] += self._remove(self._delete(vectors).where(vectors.c.cube_id.in_(chunk)))
            removed["versions"] += self._remove(self._delete(versions).where(versions.c.cube_id.in_(chunk)))
            removed["cubes"] += self._remove(self._delete(cubes).where(cubes.c.id.in_(chunk)))
        return removed

    def _remove(self, statement: Any) -> int:
        return int(self.connection.execute(statement).rowcount)

    # ------------------------------------------------------------ reading

    def get(self, cube_ids: Sequence[str], scope: Scope) -> dict[str, MemCube]:
        """Return the cubes found among ``cube_ids``, by id."""
        builder = CubeBuilder(scope)
        rows = (row for chunk in _chunks(cube_ids) for row in self._run(self._FOUND, ids=chunk))
        return {cube.id: cube for cube in map(builder.build, rows)}

    def ids(self, scope: Scope) -> list[str]:
        """Return every memory's id, in order of creation, narrowed to the scope's agent and run if named."""
        memories = self._select(cubes, cubes.c.id).where(_IS_NOTE).order_by(cubes.c.id)
        return list(self.connection.scalars(_narrow(memories, scope)))

    def page(self, scope: Scope, after: str | None, limit: int) -> list[MemCube]:
        """Return up to ``limit`` cubes with ids above ``after``, narrowed to the scope's agent and run if named.

        Near-duplicates that another memory stands for are left out.
        """
        statement = _narrow(self._with_content().where(~self._merged()).order_by(cubes.c.id).limit(limit), scope)
        if after is not None:
            statement = statement.where(cubes.c.id > after)
        return list(map(CubeBuilder(scope).build, self.connection.execute(statement)))

    def history(self, cube_id: str) -> list[CubeVersion]:
        """Return all versions of one cube, oldest first."""
        statement = self._select(versions).where(versions.c.cube_id == cube_id).order_by(versions.c.version)
        return [version_from_row(row) for row in self.connection.execute(statement)]

    def counts(self) -> dict[str, int]:
        """Return the number of rows by table, and the bytes of text and vectors."""
        memories = self._select(cubes, func.count()).where(_IS_NOTE)
        count = {
            "cubes": self.connection.scalar(memories.where(~self._merged())) or 0,
            "merged": self.connection.scalar(memories.where(self._merged())) or 0,
        }
        for name, table in (
            ("versions", versions),
            ("vectors", vectors),
            ("links", links),
        ):
            count[name] = self.connection.scalar(self._select(table, func.count())) or 0
        sizes = self._select(versions, func.coalesce(func.sum(func.length(versions.c.text)), 0))
        count["text_characters"] = int(self.connection.scalar(sizes) or 0)
        return count

    def characters(self) -> int:
        """Return the length of what the memories say now: evolution copies texts, which is nobody's doing."""
        total = self._select(versions, func.coalesce(func.sum(func.length(versions.c.text)), 0))
        return int(self.connection.scalar(total.join_from(versions, cubes, _IS_CURRENT)) or 0)

    def content(self, cube_ids: Sequence[str]) -> dict[tuple[str, int], Row[Any]]:
        """Return text and metadata of all versions of the given cubes, by ``(cube id, version)``."""
        columns = (versions.c.cube_id, versions.c.version, versions.c.text, versions.c.metadata)
        statement = self._select(versions, *columns).where(versions.c.cube_id.in_(cube_ids))
        return {(row.cube_id, row.version): row for row in self.connection.execute(statement)}

    # ------------------------------------------------------------ change feed

    def entries(self, since: int, embedder_id: int) -> Iterator[Row[Any]]:
        """Yield one row per version of every cube changed after revision ``since``, in order of creation.

        This is what recall views are built from. ``vector`` is ``None`` where this embedder has not made one yet.
        ``fused_at`` is when a memory that was put away was fused with others.
        """
        columns = (
            versions.c.cube_id,
            versions.c.version,
            cubes.c.version.label("current"),
            cubes.c.revision,
            cubes.c.state,
            cubes.c.agent_id,
            cubes.c.run_id,
            cubes.c.created_at,
            cubes.c.valid_to,
            cubes.c.expires_at,
            versions.c.event_time,
            versions.c.valid_from,
            versions.c.metadata,
            versions.c.terms,
            cubes.c.author,
            versions.c.text.like("%?").label("asks"),
            (cubes.c.infer & cubes.c.scribe.is_(None)).label("waiting"),
            case((cubes.c.state == State.ARCHIVED.value, self._fused_at()), else_=None).label("fused_at"),
            vectors.c.vector,
            vectors.c.enriched,
        )
        made = and_(
            vectors.c.cube_id == versions.c.cube_id,
            vectors.c.version == versions.c.version,
            vectors.c.embedder_id == embedder_id,
        )
        statement = (
            self._select(cubes, *columns)
            .join_from(cubes, versions, versions.c.cube_id == cubes.c.id)
            .outerjoin(vectors, made)
            .order_by(versions.c.cube_id, versions.c.version)
        )
        if since:
            statement = statement.where(cubes.c.revision > since)
        yield from self.connection.execute(statement)

    def current_vectors(self, since: int, until: int, embedder_id: int) -> tuple[list[str], NDArray[np.float32]]:
        """Return ids and float32 ``[n, dimension]`` vectors of cubes changed in revisions ``(since, until]``."""
        statement = (
            self._select(cubes, cubes.c.id, vectors.c.vector, vectors.c.enriched)
            .join_from(
                cubes,
                vectors,
                and_(vectors.c.cube_id == cubes.c.id, vectors.c.version == cubes.c.version),
            )
            .where(
                vectors.c.embedder_id == embedder_id,
                cubes.c.revision > since,
                cubes.c.revision <= until,
            )
            .order_by(cubes.c.id)
        )
        rows = self.connection.execute(statement).all()
        if not rows:
            return [], np.empty((0, 0), np.float32)
        dimension = len(rows[0].vector) // FLOAT32.itemsize
        raw, enriched = [row.vector for row in rows], [row.enriched for row in rows]
        return [row.id for row in rows], mixture(raw, enriched, dimension)

    def vectors(self, keys: Sequence[tuple[str, int]], embedder_id: int) -> dict[str, NDArray[np.float32]]:
        """Return the vectors of texts, without their notes, by cube id; ``keys`` are ``(cube id, version)``."""
        wanted, found = set(keys), {}
        for chunk in _chunks([cube_id for cube_id, _ in keys]):
            statement = self._select(vectors).where(vectors.c.cube_id.in_(chunk), vectors.c.embedder_id == embedder_id)
            for row in self.connection.execute(statement):
                if (row.cube_id, row.version) in wanted:
                    found[row.cube_id] = np.frombuffer(row.vector, FLOAT32)
        return found

    def standings(self, cube_ids: Sequence[str]) -> tuple[dict[str, int], set[str]]:
        """Return the present versions of the cubes found among ``cube_ids``, by id, and which wait for a note."""
        rows = [row for chunk in _chunks(cube_ids) for row in self._run(self._STANDINGS, ids=chunk)]
        return {row.id: row.version for row in rows}, {row.id for row in rows if row.waiting}

    def existing(self, cube_ids: Sequence[str]) -> set[str]:
        """Return which of ``cube_ids`` are still there."""
        present: set[str] = set()
        for chunk in _chunks(cube_ids):
            present.update(self.connection.scalars(self._select(cubes, cubes.c.id).where(cubes.c.id.in_(chunk))))
        return present

    def unembedded(self, embedder_id: int, limit: int) -> list[Unembedded]:
        """Return up to ``limit`` versions this embedder has no vector of."""
        made = and_(
            vectors.c.cube_id == versions.c.cube_id,
            vectors.c.version == versions.c.version,
            vectors.c.embedder_id == embedder_id,
        )
        statement = (
            self._select(versions)
            .outerjoin_from(versions, vectors, made)
            .where(vectors.c.cube_id.is_(None))
            .limit(limit)
        )
        return [unembedded(row) for row in self.connection.execute(statement)]

    def _merged(self) -> ColumnElement[bool]:
        """Whether a memory was put away because another one stands for it."""
        standing = self._select(parents, parents.c.cube_id).where(parents.c.parent_id == cubes.c.id)
        return and_(cubes.c.state == State.ARCHIVED.value, standing.exists())

    def _fused_at(self) -> ScalarSelect[Any]:
        fused = cubes.alias("fused")
        made = self._select(parents, func.min(fused.c.created_at)).join_from(
            parents, fused, fused.c.id == parents.c.cube_id
        )
        note = (fused.c.kind == Kind.PLAINTEXT.value, fused.c.source == FUSION)
        return made.where(parents.c.parent_id == cubes.c.id, *note).scalar_subquery()

    def _with_content(self) -> Select[Any]:
        return self._select(cubes, *HEADER, *CONTENT).join_from(cubes, versions, _IS_CURRENT)


def _narrow(statement: Select[Any], scope: Scope) -> Select[Any]:
    if scope.agent_id is not None:
        statement = statement.where(cubes.c.agent_id == scope.agent_id)
    if scope.run_id is not None:
        statement = statement.where(cubes.c.run_id == scope.run_id)
    return statement


def _chunks(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), IN_CHUNK):
        yield items[start : start + IN_CHUNK]
