"""Legal holds and retention, within one namespace: what must be kept, and how long the rest may be."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, or_

from memos.clock import DAY_US, from_us, now_us
from memos.cube import Frozen, Kind
from memos.errors import LegalHold
from memos.ids import new_id
from memos.store.schema import cubes, holds, retentions
from memos.store.scoped import ScopedRepository


class Hold(Frozen):
    """A legal hold on a memory, or on all memories of a user where ``cube_id`` is None."""

    id: str
    user_id: str
    cube_id: str | None = None
    reason: str | None = None
    created_at: datetime


class Retention(Frozen):
    """How many days memories of a user are kept after they were stored; None is for good."""

    user_id: str
    days: int | None = None


class HoldRepository(ScopedRepository):
    """The holds of one namespace."""

    def add(self, cube_id: str | None, reason: str | None) -> str:
        """Place a hold; return its id."""
        row = {"id": new_id(), "cube_id": cube_id, "reason": reason, "created_at": now_us()}
        self._insert(holds, [row])
        return str(row["id"])

    def remove(self, hold_id: str) -> None:
        """Release a hold."""
        self.connection.execute(self._delete(holds).where(holds.c.id == hold_id))

    def get(self, hold_id: str, user_id: str) -> Hold | None:
        """Return one hold."""
        row = self.connection.execute(self._select(holds).where(holds.c.id == hold_id)).first()
        return None if row is None else _hold(row, user_id)

    def all(self, user_id: str) -> list[Hold]:
        """Return every hold, oldest first."""
        return [_hold(row, user_id) for row in self._rows()]

    def whole(self) -> bool:
        """Return whether all memories of the namespace are held."""
        return any(row.cube_id is None for row in self._rows())

    def held(self) -> set[str]:
        """Return the memories that are held one by one."""
        return {row.cube_id for row in self._rows() if row.cube_id is not None}

    def check(self, cube_ids: Collection[str]) -> None:
        """Raise :class:`LegalHold` if one of these memories, or the namespace, is held."""
        asked = set(cube_ids)
        against = [row for row in self._rows() if row.cube_id is None or row.cube_id in asked]
        if against:
            what = "every memory of this user" if against[0].cube_id is None else f"memory {against[0].cube_id!r}"
            raise LegalHold(
                f"{what} is under legal hold {against[0].id!r} and cannot be deleted; release the hold first",
                holds=[row.id for row in against],
            )

    def _rows(self) -> list[Row[Any]]:
        return list(self.connection.execute(self._select(holds).order_by(holds.c.id)))


class RetentionRepository(ScopedRepository):
    """How long memories of one namespace are kept, and which are due to go."""

    def keep(self, days: int | None) -> None:
        """Keep memories so many days; None is for good."""
        self.connection.execute(self._delete(retentions))
        if days is not None:
            self._insert(retentions, [{"days": days, "created_at": now_us()}])

    def days(self) -> int | None:
        """Return how many days that are."""
        days: int | None = self.connection.scalar(self._select(retentions, retentions.c.days))
        return days

    def expired(self, now: int, limit: int) -> list[str]:
        """Return up to ``limit`` memories that have expired by ``now`` (microseconds) and are not held."""
        return self._ids(self._free().where(cubes.c.expires_at <= now), limit)

    def outdated(self, now: int, limit: int) -> list[str]:
        """Return up to ``limit`` memories that were stored too long ago, and are neither held nor pinned."""
        days = self.days()
        if days is None:
            return []
        return self._ids(self._free().where(cubes.c.created_at <= now - days * DAY_US, ~cubes.c.pinned), limit)

    def _free(self) -> Select[Any]:
        whole = self._select(holds, holds.c.id).where(or_(holds.c.cube_id.is_(None), holds.c.cube_id == cubes.c.id))
        return self._select(cubes, cubes.c.id).where(cubes.c.kind == Kind.PLAINTEXT.value, ~whole.exists())

    def _ids(self, due: Select[Any], limit: int) -> list[str]:
        return list(self.connection.scalars(due.order_by(cubes.c.id).limit(limit)))


def _hold(row: Row[Any], user_id: str) -> Hold:
    return Hold(id=row.id, user_id=user_id, cube_id=row.cube_id, reason=row.reason, created_at=from_us(row.created_at))
