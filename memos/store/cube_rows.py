"""Rows of memories to values, and back."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, make_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Row

from memos.clock import from_us, maybe_from_us, to_us
from memos.cube import (
    Behaviour,
    CubeVersion,
    Descriptor,
    Governance,
    MemCube,
    NewMemory,
    Provenance,
    Scope,
    State,
    Times,
)
from memos.store.mixture import has_note, note_text, packed
from memos.store.schema import cubes, versions

#: Columns of a memory and of one of its versions that make a cube.
HEADER = tuple(column for column in cubes.c if column.name not in {"namespace_id", "revision"})
CONTENT = (
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


#: A row of header and content: its fields are read in a fraction of the time that those of SQLAlchemy's rows take.
_Plain = make_dataclass("_Plain", [column.name for column in (*HEADER, *CONTENT)], slots=True)


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


def cube_row(note: Note, revision: int) -> dict[str, Any]:
    """Return the header row of a new memory."""
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


def first_version(note: Note) -> dict[str, Any]:
    """Return the row of its first version."""
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


def unembedded(row: Row[Any]) -> Unembedded:
    """Return a version as an embedder has to read it."""
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


def version_from_row(row: Row[Any]) -> CubeVersion:
    """Return a version of a memory's history."""
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
