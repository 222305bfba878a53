"""What notes say about memories: completing, evolving, closing, merging, rolling back, within one namespace."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Row, and_, bindparam, func

from memos.clock import to_us
from memos.config import OFFLINE
from memos.cube import RECALLABLE, Descriptor, Kind, State
from memos.store.mixture import packed
from memos.store.schema import cubes, influences, parents, vectors, versions
from memos.store.scoped import IN_CHUNK, ScopedRepository

_ATTRIBUTES = ("title", "keywords", "tags", "context", "language", "entities", "importance")


@dataclass(frozen=True, slots=True)
class Completed:
    """A note for the version it was made from. ``event_time`` is in microseconds, as it is to stand there.

    ``enriched`` is the unit vector of text and note, float32 ``[dimension]``, by the embedder of that number.
    """

    cube_id: str
    version: int
    descriptor: Descriptor
    event_time: int | None
    embedder_id: int
    enriched: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class Settled:
    """Who wrote a memory's note, with what remark, and the state it led to."""

    cube_id: str
    state: str
    scribe: str
    remark: str | None
    sensitivity: str


@dataclass(frozen=True, slots=True)
class Evolved:
    """A further version of a note; ``valid_to`` (microseconds) closes the memory."""

    cube_id: str
    descriptor: Descriptor
    changes: Mapping[str, Any]
    reason: str
    author: str
    embedder_id: int
    enriched: NDArray[np.float32] | None
    valid_to: int | None = None


class NoteRepository(ScopedRepository):
    """Reads and writes the notes of one namespace. Callers hold its lock and pass its new revision."""

    _MERGED = (
        ScopedRepository._prepared(parents)
        .where(parents.c.cube_id.in_(bindparam("ids", expanding=True)))
        .order_by(parents.c.parent_id)
    )

    # ------------------------------------------------------------ reading

    def waiting(self, limit: int) -> list[str]:
        """Return the ids of memories that want a note and have none, oldest first."""
        return list(self.connection.scalars(self._waiting(cubes.c.id).order_by(cubes.c.id).limit(limit)))

    def count_waiting(self) -> int:
        """Return how many those are."""
        return self.connection.scalar(self._waiting(func.count())) or 0

    def fallen_back(self) -> list[str]:
        """Return the ids of memories whose note was written without a model because its answer could not be used."""
        statement = self._notes(cubes.c.id).where(
            cubes.c.state == State.ACTIVATED.value, cubes.c.scribe == OFFLINE, cubes.c.remark.is_not(None)
        )
        return list(self.connection.scalars(statement.order_by(cubes.c.id)))

    def merged(self, cube_ids: Sequence[str]) -> dict[str, list[tuple[str, int]]]:
        """Return the near-duplicates that each of these notes stands for, as ``(cube id, version)``."""
        found: dict[str, list[tuple[str, int]]] = {}
        for start in range(0, len(cube_ids), IN_CHUNK):
            for row in self._run(self._MERGED, ids=cube_ids[start : start + IN_CHUNK]):
                found.setdefault(row.cube_id, []).append((row.parent_id, row.parent_version))
        return found

    def version(self, cube_id: str, version: int) -> Row[Any] | None:
        """Return one version of a memory."""
        statement = self._select(versions).where(versions.c.cube_id == cube_id, versions.c.version == version)
        return self.connection.execute(statement).first()

    # ------------------------------------------------------------ writing

    def complete(self, notes: Sequence[Completed]) -> None:
        """Write what notes say into the versions they were made from, and that they were written."""
        if not notes:
            return
        here = and_(versions.c.cube_id == bindparam("of"), versions.c.version == bindparam("at_version"))
        names = (*_ATTRIBUTES, "event_time")
        said = self._update(versions).where(here).values({name: bindparam(f"new_{name}") for name in names})
        self.connection.execute(said, [_said(note) for note in notes])
        enriched = [note for note in notes if note.enriched is not None]
        self._enrich([(note.cube_id, note.version, note.embedder_id, note.enriched) for note in enriched])

    def settle(self, settled: Sequence[Settled], revision: int, at: int) -> None:
        """Record who wrote the notes of memories, and the states these led to."""
        if not settled:
            return
        names = ("state", "scribe", "remark", "sensitivity")
        values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
        statement = self._update(cubes).where(cubes.c.id == bindparam("of"))
        rows = [{"of": one.cube_id, **{f"new_{name}": getattr(one, name) for name in names}} for one in settled]
        self.connection.execute(statement.values(revision=revision, updated_at=at, **values), rows)

    def evolve(self, evolved: Sequence[Evolved], revision: int, at: int) -> None:
        """Write further versions with the same texts and other attributes, each after the one before it.

        They hold since when the versions before them held: what is known of a memory is no change of what it tells.
        """
        if not evolved:
            return
        current = self._current({one.cube_id for one in evolved})
        made_of = self._vectors({(row.cube_id, row.version) for row in current.values()})
        numbers = {cube_id: int(row.version) for cube_id, row in current.items()}
        rows, vector_rows, ends = [], [], {}
        for one in evolved:
            numbers[one.cube_id] += 1
            own = {"cube_id": one.cube_id, "version": numbers[one.cube_id]}
            told = {"changes": dict(one.changes), "reason": one.reason, "author": one.author, "created_at": at}
            rows.append({**_content(current[one.cube_id]), **_attributes(one.descriptor), **told, **own})
            for vector in made_of.get(one.cube_id, ()):
                enriched = vector.enriched if one.enriched is None else None
                if one.enriched is not None and vector.embedder_id == one.embedder_id:
                    enriched = packed(one.enriched)
                made = {"embedder_id": vector.embedder_id, "vector": vector.vector, "enriched": enriched}
                vector_rows.append({**own, **made})
            if one.valid_to is not None:
                ends[one.cube_id] = one.valid_to
        self._insert(versions, rows)
        self._insert(vectors, vector_rows)
        statement = self._update(cubes).where(cubes.c.id == bindparam("of"))
        statement = statement.values(revision=revision, updated_at=at, version=bindparam("new_version"))
        self.connection.execute(statement, [{"of": name, "new_version": number} for name, number in numbers.items()])
        for cube_id, end in ends.items():
            self._change(cube_id, revision, valid_to=end)

    def influence(self, influenced: Sequence[tuple[str, int, Collection[str]]]) -> None:
        """Record whose help the notes of some versions had, as ``(cube id, version, other memories)``.

        What those others' notes had from elsewhere is in these too.
        """
        sources = sorted({source for _, _, some in influenced for source in some})
        known: dict[str, set[str]] = {}
        for start in range(0, len(sources), IN_CHUNK):
            columns = (influences.c.cube_id, influences.c.source_id)
            chunk = sources[start : start + IN_CHUNK]
            statement = self._select(influences, *columns).where(influences.c.cube_id.in_(chunk))
            for row in self.connection.execute(statement):
                known.setdefault(row.cube_id, set()).add(row.source_id)
        rows = []
        for cube_id, version, some in influenced:
            every = (set(some).union(*(known.get(source, ()) for source in some))) - {cube_id}
            known.setdefault(cube_id, set()).update(every)
            rows += [{"cube_id": cube_id, "version": version, "source_id": source} for source in sorted(every)]
        self._insert(influences, rows)

    def merge(self, cube_id: str, duplicate: tuple[str, int]) -> None:
        """Record that a note stands for a near-duplicate, if that is not on record: notes may be written again."""
        own = self._select(parents, func.count()).where(parents.c.cube_id == cube_id)
        known = own.where(parents.c.parent_id == duplicate[0], parents.c.parent_version == duplicate[1])
        if self.connection.scalar(known):
            return
        position = self.connection.scalar(own) or 0
        row = {"cube_id": cube_id, "parent_id": duplicate[0], "parent_version": duplicate[1], "position": position}
        self._insert(parents, [row])

    def roll_back(self, cube_id: str, version: int, revision: int, at: int) -> int:
        """Write another version that says what an earlier one said, with its vectors; return its number.

        What that version closed or opened again since holds as it did then.
        """
        earlier, present = self.version(cube_id, version), self._current({cube_id})[cube_id]
        assert earlier is not None  # the caller looked
        same_text = earlier.digest == present.digest
        row = {
            **_content(earlier),
            "valid_from": present.valid_from if same_text else at,
            "reason": f"rollback to version {version}",
            "author": None,
            "changes": None,
            "created_at": at,
        }
        number = int(present.version) + 1
        own = {"cube_id": cube_id, "version": number}
        self._insert(versions, [{**row, **own}])
        made_of = self._vectors({(cube_id, version)}).get(cube_id, ())
        copied = ("embedder_id", "vector", "enriched")
        self._insert(vectors, [{**own, **{name: getattr(one, name) for name in copied}} for one in made_of])
        self._change(cube_id, revision, version=number, updated_at=at)
        since = self._select(versions, versions.c.changes).where(
            versions.c.cube_id == cube_id, versions.c.version > version, versions.c.version < number
        )
        closed = [
            row.changes["valid_to"]
            for row in self.connection.execute(since.order_by(versions.c.version))
            if _closes(row)
        ]
        if closed:
            self._change(cube_id, revision, valid_to=_moment(closed[0][0]))
        return number

    def unlearn(self, cube_ids: Sequence[str], revision: int, at: int) -> list[str]:
        """Take back what notes say with the help of memories that are about to go; return whose notes that were.

        From the first such version on, a note says what it said before, its diffs and reasons are gone, and a fact that
        one of these memories closed holds again. The notes wait to be written anew.
        """
        first: dict[str, int] = {}
        for start in range(0, len(cube_ids), IN_CHUNK):
            chunk = cube_ids[start : start + IN_CHUNK]
            for row in self.connection.execute(self._select(influences).where(influences.c.source_id.in_(chunk))):
                first[row.cube_id] = min(first.get(row.cube_id, row.version), row.version)
        affected = sorted(set(first) - set(cube_ids))
        for cube_id in affected:
            self._forget_from(cube_id, first[cube_id], revision, at)
        return affected

    # ------------------------------------------------------------ inside

    def _forget_from(self, cube_id: str, version: int, revision: int, at: int) -> None:
        of_cube = self._select(versions).where(versions.c.cube_id == cube_id).order_by(versions.c.version)
        rows = {row.version: row for row in self.connection.execute(of_cube)}
        before = rows.get(version - 1)
        closed = [row.changes["valid_to"] for row in rows.values() if row.version >= version and _closes(row)]
        for row in (row for row in rows.values() if row.version >= version):
            same = before is not None and before.digest == row.digest
            kept = _copied(before) if same and before is not None else _attributes(Descriptor())
            here = and_(versions.c.cube_id == cube_id, versions.c.version == row.version)
            cleared = {**kept, "changes": None, "reason": None if row.author else row.reason}
            self.connection.execute(self._update(versions).where(here).values(**cleared))
            of_version = and_(vectors.c.cube_id == cube_id, vectors.c.version == row.version)
            self.connection.execute(self._update(vectors).where(of_version).values(enriched=None))
        of_later = and_(influences.c.cube_id == cube_id, influences.c.version >= version)
        self.connection.execute(self._delete(influences).where(of_later))
        reopened = {"valid_to": _moment(closed[0][0])} if closed else {}
        self._change(cube_id, revision, scribe=None, remark=None, updated_at=at, **reopened)

    def _waiting(self, *columns: Any) -> Any:
        recallable = [state.value for state in RECALLABLE]
        return self._notes(*columns).where(cubes.c.infer, cubes.c.scribe.is_(None), cubes.c.state.in_(recallable))

    def _notes(self, *columns: Any) -> Any:
        return self._select(cubes, *columns).where(cubes.c.kind == Kind.PLAINTEXT.value)

    def _current(self, cube_ids: Collection[str]) -> dict[str, Row[Any]]:
        newest = and_(versions.c.cube_id == cubes.c.id, versions.c.version == cubes.c.version)
        statement = self._select(versions).join_from(versions, cubes, newest)
        found = {}
        for chunk in _chunks(cube_ids):
            rows = self.connection.execute(statement.where(cubes.c.id.in_(chunk)))
            found.update({row.cube_id: row for row in rows})
        return found

    def _vectors(self, keys: Collection[tuple[str, int]]) -> dict[str, list[Row[Any]]]:
        """Return the vectors of some versions, of every embedder, by cube id."""
        found: dict[str, list[Row[Any]]] = {}
        for chunk in _chunks({cube_id for cube_id, _ in keys}):
            for row in self.connection.execute(self._select(vectors).where(vectors.c.cube_id.in_(chunk))):
                if (row.cube_id, row.version) in keys:
                    found.setdefault(row.cube_id, []).append(row)
        return found

    def _enrich(self, made: Sequence[tuple[str, int, int, NDArray[np.float32] | None]]) -> None:
        if not made:
            return
        here = and_(
            vectors.c.cube_id == bindparam("of"),
            vectors.c.version == bindparam("at_version"),
            vectors.c.embedder_id == bindparam("by"),
        )
        statement = self._update(vectors).where(here).values(enriched=bindparam("new_enriched"))
        rows = [
            {"of": cube_id, "at_version": version, "by": by, "new_enriched": packed(vector)}
            for cube_id, version, by, vector in made
        ]
        self.connection.execute(statement, rows)

    def _change(self, cube_id: str, revision: int, **values: Any) -> None:
        statement = self._update(cubes).where(cubes.c.id == cube_id).values(revision=revision, **values)
        self.connection.execute(statement)


def _chunks(items: Collection[str]) -> Iterator[list[str]]:
    ordered = sorted(items)
    for start in range(0, len(ordered), IN_CHUNK):
        yield ordered[start : start + IN_CHUNK]


def _said(note: Completed) -> dict[str, Any]:
    told = {**_attributes(note.descriptor), "event_time": note.event_time}
    return {"of": note.cube_id, "at_version": note.version, **{f"new_{name}": value for name, value in told.items()}}


def _attributes(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "title": descriptor.title,
        "keywords": list(descriptor.keywords),
        "tags": list(descriptor.tags),
        "context": descriptor.context,
        "language": descriptor.language,
        "entities": list(descriptor.entities),
        "importance": descriptor.importance,
    }


def _copied(row: Row[Any]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _ATTRIBUTES}


def _closes(row: Row[Any]) -> bool:
    return "valid_to" in (row.changes or {})


def _moment(told: str | None) -> int | None:
    return None if told is None else to_us(datetime.fromisoformat(told))


def _content(row: Row[Any]) -> dict[str, Any]:
    """Return what a version is made of, without what tells it from others of the memory."""
    own = {"cube_id", "version", "namespace_id", "author", "reason", "changes", "created_at"}
    return {name: value for name, value in row._asdict().items() if name not in own}
