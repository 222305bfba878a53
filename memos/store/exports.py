"""Files that were handed out of one namespace: a deletion cannot reach them, so its receipt names them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import Row

from memos.clock import from_us, now_us
from memos.cube import Frozen, Scope
from memos.ids import new_id
from memos.store.schema import exports
from memos.store.scoped import ScopedRepository


class ExportKind(StrEnum):
    """What a file holds: memories, or an adapter made from some."""

    MEMORIES = "memories"
    ADAPTER = "adapter"


class ExportRecord(Frozen):
    """A file that was handed out.

    ``path_digest`` is the hex SHA-256 of its absolute path, where the file was written for whoever asked; ``digest``
    that of its bytes, where it is one file. ``memories`` is how many it holds.
    """

    id: str
    kind: ExportKind
    memories: int
    path_digest: str | None = None
    digest: str | None = None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Stored:
    """Since when a memory was there (microseconds), and where: what tells which exports have it."""

    cube_id: str
    created_at: int
    agent_id: str | None
    run_id: str | None


class ExportRepository(ScopedRepository):
    """The registry of exports."""

    def begin(self, scope: Scope, path: Path | None) -> str:
        """Record a file of memories before any is read for it; return the export's id."""
        return self._add(ExportKind.MEMORIES, scope, path)

    def finish(self, export_id: str, memories: int, digest: str) -> None:
        """Record what the file has come to hold, before it has its name."""
        values = {"memories": memories, "digest": digest, "created_at": now_us()}
        self.connection.execute(self._update(exports).where(exports.c.id == export_id).values(values))

    def cancel(self, export_id: str) -> None:
        """Strike out a file that was not written, or holds nothing."""
        self.connection.execute(self._delete(exports).where(exports.c.id == export_id))

    def adapter(self, scope: Scope, sources: Sequence[str], path: Path | None) -> str:
        """Record the folder of an adapter before it is written; return the export's id."""
        return self._add(ExportKind.ADAPTER, scope, path, sources=list(sources), memories=len(sources))

    def _add(self, kind: ExportKind, scope: Scope, path: Path | None, **values: Any) -> str:
        row = {
            "id": new_id(),
            "kind": kind.value,
            "agent_id": scope.agent_id,
            "run_id": scope.run_id,
            "sources": None,
            "path_digest": None if path is None else hashlib.sha256(os.fsencode(path.resolve())).hexdigest(),
            "memories": 0,
            "created_at": now_us(),
            **values,
        }
        self._insert(exports, [row])
        return str(row["id"])

    def holding(self, stored: Sequence[Stored]) -> list[ExportRecord]:
        """Return the exports that hold one of some memories, oldest first.

        A memory imported later under the time of its first life counts as held: too many are named, never too few.
        """
        rows = self.connection.execute(self._select(exports).order_by(exports.c.id))
        return [_record(row) for row in rows if any(_holds(row, one) for one in stored)]


def _holds(export: Row[Any], one: Stored) -> bool:
    if export.sources is not None:
        return one.cube_id in export.sources
    unfinished = export.digest is None  # what it will hold is not known yet, or never was: its writer died
    return (
        (unfinished or one.created_at <= export.created_at)
        and export.agent_id in (None, one.agent_id)
        and export.run_id in (None, one.run_id)
    )


def _record(row: Row[Any]) -> ExportRecord:
    return ExportRecord(
        id=row.id,
        kind=ExportKind(row.kind),
        memories=row.memories,
        path_digest=row.path_digest,
        digest=row.digest,
        created_at=from_us(row.created_at),
    )
