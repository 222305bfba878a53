"""Moves between tiers, within one namespace: audit rows, so that what was moved why is known as long as the rest is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from sqlalchemy import Connection, or_

from memos.clock import now_us
from memos.cube import RECALLABLE, Kind
from memos.store.jobs import DISTIL, PROMOTE, JobState
from memos.store.schema import audit, cubes, jobs
from memos.store.scoped import ScopedRepository

#: The action of their audit rows; ``move`` is that of a change of state.
MOVE = "migrate"
_CURRENT: ContextVar[Mapping[str, Any] | None] = ContextVar("memos_move", default=None)


class MoveRepository(ScopedRepository):
    """Reads what moves are decided by, and writes what was moved."""

    def add(self, detail: Mapping[str, Any]) -> None:
        """Record a move."""
        row = {"action": MOVE, "cube_id": detail["cube_id"], "detail": dict(detail), "created_at": now_us()}
        self._insert(audit, [row])

    def all(self) -> list[tuple[dict[str, Any], int]]:
        """Return the details of all moves and when they were made, oldest first."""
        statement = self._select(audit, audit.c.detail, audit.c.created_at).where(audit.c.action == MOVE)
        return [(dict(row.detail), row.created_at) for row in self.connection.execute(statement.order_by(audit.c.id))]

    def hottest(self, most: int, now: int) -> list[str]:
        """Return the memories that were the hottest when they were last used, and may be recalled still."""
        statement = self._select(cubes, cubes.c.id).where(
            cubes.c.kind == Kind.PLAINTEXT.value,
            cubes.c.state.in_([state.value for state in RECALLABLE]),
            cubes.c.last_recalled_at.is_not(None),
            or_(cubes.c.expires_at.is_(None), cubes.c.expires_at > now),
        )
        return list(self.connection.scalars(statement.order_by(cubes.c.heat.desc(), cubes.c.id).limit(most)))

    def kept(self) -> set[str]:
        """Return the cubes of higher tiers that are pinned or frozen."""
        held = or_(cubes.c.pinned, cubes.c.frozen)
        statement = self._select(cubes, cubes.c.id).where(cubes.c.kind != Kind.PLAINTEXT.value, held)
        return set(self.connection.scalars(statement))

    def under_way(self) -> set[str]:
        """Return the memories that are about to be in a KV file or an adapter."""
        waits = jobs.c.state.in_((JobState.QUEUED.value, JobState.RUNNING.value))
        makes = jobs.c.task.in_((PROMOTE, DISTIL))
        payloads = self.connection.scalars(self._select(jobs, jobs.c.payload).where(waits, makes))
        return {cube_id for payload in payloads for cube_id in payload["ids"]}


@contextmanager
def moving(detail: Mapping[str, Any]) -> Iterator[None]:
    """Let the write of the block, in this thread, record a move in its transaction."""
    token = _CURRENT.set(detail)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def record_move(connection: Connection, namespace_id: int, job_id: str | None) -> None:
    """Record the move that is being carried out, if this is one, in the transaction that does it."""
    if (detail := _CURRENT.get()) is not None:
        MoveRepository(connection, namespace_id).add({**detail, "job_id": job_id})
