"""Cubes, their versions, vectors, lineage and links, within one namespace."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, make_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Row, Select, and_, bindparam, func, or_

from memos.clock import from_us, maybe_from_us, to_us
from memos.cube import (
    Behaviour,
    CubeVersion,
    Descriptor,
    Governance,
    Kind,
    MemCube,
    NewMemory,
    Provenance,
    Scope,
    State,
    Times,
)
from memos.store.mixture import FLOAT32, has_note, mixture, note_text, packed
from memos.store.schema import cubes, influences, links, parents, vectors, versions
from memos.store.scoped import ScopedRepository

IN_CHUNK = 500  # bound variables per IN list; SQLite's compiled limit is far above, its planner's comfort is not

_IS_NOTE = cubes.c.kind == Kind.PLAINTEXT.value
_IS_CURRENT = and_(versions.c.cube_id == cubes.c.id, versions.c.version == cubes.c.version)
_HEADER = tuple(column for column in cubes.c if column.name not in {"namespace_id", "revision"})
_CONTENT = (
    versions.c.text,
    versions.c.digest,
    versions.c.metadata,
    versions.c.title,
    versions.c.keywords,
    versions.c.tags,
    versions.c.context,
    versions.c.language,
    versions.c.entities,
    versions.c.importance,
    versions.c.event_time,
    versions.c.valid_from,
)


@dataclass(frozen=True, slots=True)
class Note:
    """A plaintext memory ready to be written: checked, analysed and embedded.

    ``vector`` is float32 ``[dimension]`` of unit length; ``terms`` are space-separated stems.
    """

    id: str
    memory: NewMemory
    author: str | None
    digest: str
    terms: str
    vector: NDArray[np.float32]
    created_at: int
    valid_from: int


@dataclass(frozen=True, slots=True)
class Unembedded:
    """A version that an embedder has not seen; ``note`` is its text with what its note says, if it has one."""

    cube_id: str
    version: int
    text: str
    note: str | None


#: Cube id, version, the vector of the text, and that of text and note, if there is one.
Embedded = tuple[str, int, NDArray[np.float32], NDArray[np.float32] | None]


class CubeRepository(ScopedRepository):
    """Reads and writes the cubes of one namespace."""

    _FOUND = (
        ScopedRepository._prepared(cubes, *_HEADER, *_CONTENT)
        .join_from(cubes, versions, _IS_CURRENT)
        .where(cubes.c.id.in_(bindparam("ids", expanding=True)))
    )

    _STANDINGS = ScopedRepository._prepared(
        cubes, cubes.c.id, cubes.c.version, (cubes.c.infer & cubes.c.scribe.is_(None)).label("waiting")
    ).where(cubes.c.id.in_(bindparam("ids", expanding=True)))

    # ------------------------------------------------------------ writing

    def insert(self, notes: Sequence[Note], revision: int, embedder_id: int) -> None:
        """Write new notes as version 1."""
        self._insert(cubes, [_cube_row(note, revision) for note in notes])
        self._insert(versions, [_first_version(note) for note in notes])
        self._insert(vectors, [vector_row(note.id, 1, note.vector, embedder_id=embedder_id) for note in notes])

    def add_version(self, cube: MemCube, note: Note, revision: int, embedder_id: int, reason: str) -> None:
        """Write ``note`` as the version after ``cube.version`` and point the header at it."""
        version = cube.version + 1
        row = {**_first_version(note), "version": version, "cube_id": cube.id, "reason": reason}
        self._insert(versions, [row])
        self._insert(vectors, [vector_row(cube.id, version, note.vector, embedder_id=embedder_id)])
        fresh = {"scribe": None, "remark": None, "valid_to": None}  # what was said of the old text, and until when
        self._change(cube.id, revision, version=version, updated_at=note.created_at, **fresh)

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
        return [_version_from_row(row) for row in self.connection.execute(statement)]

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
        return [_unembedded(row) for row in self.connection.execute(statement)]

    def _merged(self) -> ColumnElement[bool]:
        """Whether a memory was put away because another one stands for it."""
        standing = self._select(parents, parents.c.cube_id).where(parents.c.parent_id == cubes.c.id)
        return and_(cubes.c.state == State.ARCHIVED.value, standing.exists())

    def _with_content(self) -> Select[Any]:
        return self._select(cubes, *_HEADER, *_CONTENT).join_from(cubes, versions, _IS_CURRENT)


# ---------------------------------------------------------------- rows to values and back


#: A row of header and content: its fields are read in a fraction of the time that those of SQLAlchemy's rows take.
_Plain = make_dataclass("_Plain", [column.name for column in (*_HEADER, *_CONTENT)], slots=True)


class CubeBuilder:
    """Builds plaintext cubes from header rows joined with their current versions; equal parts of them are made once."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._parts: dict[Hashable, Any] = {}

    def build(self, row: Row[Any]) -> MemCube:
        """Return the cube of a row."""
        plain = _Plain(*row)
        return MemCube(
            id=plain.id,
            scope=self._part(self._scope_of, plain.agent_id, plain.run_id),
            kind=plain.kind,
            state=plain.state,
            version=plain.version,
            digest=plain.digest,
            text=plain.text,
            metadata=plain.metadata,
            descriptor=descriptor_of(plain),
            time=_times_of(plain),
            provenance=self._part(_provenance, plain.source, plain.author, plain.infer, plain.scribe, plain.remark),
            governance=self._part(_governance, plain.sensitivity, plain.pinned, plain.frozen, tuple(plain.acl)),
            behaviour=self._part(_behaviour, plain.recall_count, plain.last_recalled_at, plain.heat),
        )

    def _part(self, make: Callable[..., Any], *values: Hashable) -> Any:
        key = (make, values)
        if key not in self._parts:
            self._parts[key] = make(*values)
        return self._parts[key]

    def _scope_of(self, agent_id: str | None, run_id: str | None) -> Scope:
        return Scope(tenant=self._scope.tenant, user_id=self._scope.user_id, agent_id=agent_id, run_id=run_id)


def _times_of(row: Any) -> Times:
    return Times(
        created_at=from_us(row.created_at),
        updated_at=from_us(row.updated_at),
        event_time=maybe_from_us(row.event_time),
        valid_from=from_us(row.valid_from),
        valid_to=maybe_from_us(row.valid_to),
        expires_at=maybe_from_us(row.expires_at),
    )


def _provenance(source: str, author: str | None, infer: bool, scribe: str | None, remark: str | None) -> Provenance:
    return Provenance(source=source, author=author, infer=infer, scribe=scribe, remark=remark)


def _governance(sensitivity: str, pinned: bool, frozen: bool, acl: tuple[str, ...]) -> Governance:
    return Governance(sensitivity=sensitivity, pinned=pinned, frozen=frozen, acl=acl)


def _behaviour(recall_count: int, last_recalled_at: int | None, heat: float) -> Behaviour:
    return Behaviour(recall_count=recall_count, last_recalled_at=maybe_from_us(last_recalled_at), heat=heat)


def cube_from_note(note: Note, scope: Scope) -> MemCube:
    """Build the cube that :meth:`CubeRepository.insert` has just written, without reading it back."""
    memory = note.memory
    return MemCube.model_validate(
        {
            "id": note.id,
            "scope": {
                "tenant": scope.tenant,
                "user_id": scope.user_id,
                "agent_id": memory.agent_id,
                "run_id": memory.run_id,
            },
            "state": _first_state(memory),
            "version": 1,
            "digest": note.digest,
            "text": memory.text,
            "metadata": memory.metadata,
            "time": {
                "created_at": from_us(note.created_at),
                "updated_at": from_us(note.created_at),
                "event_time": memory.event_time,
                "valid_from": from_us(note.valid_from),
                "expires_at": memory.expires_at,
            },
            "provenance": {"source": memory.source, "author": note.author, "infer": memory.infer},
        }
    )


def _first_state(memory: NewMemory) -> State:
    """A memory whose notes are still to be constructed starts as ``generated``; it can be recalled at once."""
    return State.GENERATED if memory.infer else State.ACTIVATED


def _cube_row(note: Note, revision: int) -> dict[str, Any]:
    memory = note.memory
    return {
        "id": note.id,
        "kind": "plaintext",
        "state": _first_state(memory).value,
        "version": 1,
        "revision": revision,
        "agent_id": memory.agent_id,
        "run_id": memory.run_id,
        "source": memory.source,
        "author": note.author,
        "infer": memory.infer,
        "sensitivity": "normal",
        "pinned": False,
        "frozen": False,
        "acl": [],
        "created_at": note.created_at,
        "updated_at": note.created_at,
        "valid_to": None,
        "expires_at": to_us(memory.expires_at) if memory.expires_at else None,
        "recall_count": 0,
        "last_recalled_at": None,
        "heat": 0.0,
        "scribe": None,
        "remark": None,
    }


def _first_version(note: Note) -> dict[str, Any]:
    memory = note.memory
    return {
        "cube_id": note.id,
        "version": 1,
        "text": memory.text,
        "terms": note.terms,
        "digest": note.digest,
        "metadata": memory.metadata,
        "title": None,
        "keywords": [],
        "tags": [],
        "context": None,
        "language": None,
        "entities": [],
        "importance": None,
        "event_time": to_us(memory.event_time) if memory.event_time else None,
        "valid_from": note.valid_from,
        "author": None,
        "reason": None,
        "changes": None,
        "created_at": note.created_at,
    }


def vector_row(
    cube_id: str,
    version: int,
    vector: NDArray[np.float32],
    enriched: NDArray[np.float32] | None = None,
    *,
    embedder_id: int,
) -> dict[str, Any]:
    """Return the row of the vectors of a text and of its note, float32 ``[dimension]``."""
    return {
        "cube_id": cube_id,
        "version": version,
        "embedder_id": embedder_id,
        "vector": packed(vector),
        "enriched": packed(enriched),
    }


def _unembedded(row: Row[Any]) -> Unembedded:
    said = descriptor_of(row)
    return Unembedded(row.cube_id, row.version, row.text, note_text(row.text, said) if has_note(said) else None)


def descriptor_of(row: Any) -> Descriptor:
    """Return what the note of a version says."""
    return Descriptor(
        title=row.title,
        keywords=row.keywords,
        tags=row.tags,
        context=row.context,
        language=row.language,
        entities=row.entities,
        importance=row.importance,
    )


def _version_from_row(row: Row[Any]) -> CubeVersion:
    return CubeVersion(
        cube_id=row.cube_id,
        version=row.version,
        text=row.text,
        metadata=row.metadata,
        digest=row.digest,
        descriptor=descriptor_of(row),
        author=row.author,
        reason=row.reason,
        changes=row.changes,
        created_at=from_us(row.created_at),
        valid_from=from_us(row.valid_from),
    )


def _narrow(statement: Select[Any], scope: Scope) -> Select[Any]:
    if scope.agent_id is not None:
        statement = statement.where(cubes.c.agent_id == scope.agent_id)
    if scope.run_id is not None:
        statement = statement.where(cubes.c.run_id == scope.run_id)
    return statement


def _chunks(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), IN_CHUNK):
        yield items[start : start + IN_CHUNK]
