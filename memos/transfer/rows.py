"""Between the export format and the tables."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row

from memos.clock import from_us, maybe_from_us, to_us
from memos.cube import Governance, Kind, State
from memos.plaintext.analysis import terms
from memos.store.archive import TableRow
from memos.store.cube_rows import descriptor_of
from memos.store.mixture import has_note, note_text
from memos.transfer.record import LinkRecord, MemoryRecord, SourceRecord, VersionRecord

# ---------------------------------------------------------------- rows to records


def record_of(
    cube: Row[Any],
    versions: Sequence[Row[Any]],
    links: Sequence[Row[Any]],
    sources: Sequence[Row[Any]],
    influences: Sequence[Row[Any]],
) -> MemoryRecord:
    """Build the record of one memory from its rows."""
    helped: dict[int, list[str]] = {}
    for row in influences:
        helped.setdefault(row.version, []).append(row.source_id)
    return MemoryRecord(
        id=cube.id,
        state=State(cube.state),
        agent_id=cube.agent_id,
        run_id=cube.run_id,
        source=cube.source,
        author=cube.author,
        infer=cube.infer,
        scribe=cube.scribe,
        remark=cube.remark,
        governance=Governance(sensitivity=cube.sensitivity, pinned=cube.pinned, frozen=cube.frozen, acl=cube.acl),
        created_at=from_us(cube.created_at),
        updated_at=from_us(cube.updated_at),
        valid_to=maybe_from_us(cube.valid_to),
        expires_at=maybe_from_us(cube.expires_at),
        versions=tuple(_version_of(row, helped.get(row.version, ())) for row in versions),
        links=tuple(_link_of(row) for row in links),
        sources=tuple(SourceRecord(id=row.parent_id, version=row.parent_version) for row in sources),
    )


def _version_of(row: Row[Any], influences: Sequence[str]) -> VersionRecord:
    return VersionRecord(
        version=row.version,
        text=row.text,
        metadata=row.metadata,
        descriptor=descriptor_of(row),
        event_time=maybe_from_us(row.event_time),
        valid_from=from_us(row.valid_from),
        created_at=from_us(row.created_at),
        author=row.author,
        reason=row.reason,
        changes=row.changes,
        influences=tuple(influences),
    )


def _link_of(row: Row[Any]) -> LinkRecord:
    return LinkRecord(
        target_id=row.target_id,
        type=row.type,
        score=row.score,
        author=row.author,
        created_at=from_us(row.created_at),
        source_version=row.source_version,
        target_version=row.target_version,
    )


# ---------------------------------------------------------------- records to rows


def cube_row(record: MemoryRecord, cube_id: str, revision: int) -> TableRow:
    """Return the header row of a memory restored under ``cube_id``."""
    return {
        "id": cube_id,
        "kind": Kind.PLAINTEXT.value,
        "state": record.state.value,
        "version": record.versions[-1].version,
        "revision": revision,
        "agent_id": record.agent_id,
        "run_id": record.run_id,
        "source": record.source,
        "author": record.author,
        "infer": record.infer,
        "scribe": record.scribe,
        "remark": record.remark,
        **record.governance.model_dump(mode="json"),
        "created_at": to_us(record.created_at),
        "updated_at": to_us(record.updated_at),
        "valid_to": _maybe_to_us(record.valid_to),
        "expires_at": _maybe_to_us(record.expires_at),
        "recall_count": 0,
        "last_recalled_at": None,
        "heat": 0.0,
    }


def version_row(version: VersionRecord, cube_id: str) -> TableRow:
    """Return the row of one version; digest and stems are made anew from the text."""
    return {
        "cube_id": cube_id,
        "version": version.version,
        "text": version.text,
        "terms": " ".join(terms(version.text)),
        "digest": hashlib.sha256(version.text.encode()).hexdigest(),
        "metadata": version.metadata,
        **version.descriptor.model_dump(mode="json"),
        "event_time": _maybe_to_us(version.event_time),
        "valid_from": to_us(version.valid_from),
        "author": version.author,
        "reason": version.reason,
        "changes": version.changes,
        "created_at": to_us(version.created_at),
    }


def noted(version: VersionRecord) -> str | None:
    """Return a version's text with what its note says, ``None`` if it has no note."""
    return note_text(version.text, version.descriptor) if has_note(version.descriptor) else None


def influence_row(cube_id: str, version: int, source_id: str) -> TableRow:
    """Return the row that ties what a version's note says to another memory."""
    return {"cube_id": cube_id, "version": version, "source_id": source_id}


def source_row(source: SourceRecord, cube_id: str, source_id: str, position: int) -> TableRow:
    """Return the row that ties a near-duplicate to the memory that stands for it."""
    return {"cube_id": cube_id, "parent_id": source_id, "parent_version": source.version, "position": position}


def link_row(link: LinkRecord, source_id: str, target_id: str) -> TableRow:
    """Return the row of one link between two ids of the store."""
    return {
        **link.model_dump(exclude={"created_at", "target_id"}),
        "source_id": source_id,
        "target_id": target_id,
        "created_at": to_us(link.created_at),
    }


def _maybe_to_us(moment: datetime | None) -> int | None:
    return None if moment is None else to_us(moment)
