"""Outbox, audit and idempotency rows, within one namespace."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from memos.clock import now_us
from memos.errors import IdempotencyConflict, NotFound
from memos.ids import ids_in
from memos.store.schema import audit, idempotency, outbox
from memos.store.scoped import ScopedRepository

#: Deletion records kept for readers that lag behind; one further behind reloads instead.
OUTBOX_KEEP = 1_000


@dataclass(frozen=True, slots=True)
class Removal:
    """One deletion that indexes must follow; ``cube_ids`` is empty when the whole namespace was cleared."""

    revision: int
    clear: bool
    cube_ids: tuple[str, ...]


class Outbox(ScopedRepository):
    """The deletion half of the change feed."""

    def add(self, revision: int, cube_ids: Sequence[str], *, clear: bool = False) -> None:
        """Record a deletion in the transaction that makes it."""
        op = "clear" if clear else "delete"
        row = {"revision": revision, "op": op, "cube_ids": list(cube_ids), "created_at": now_us()}
        self._insert(outbox, [row])

    def removals(self, since: int, until: int) -> list[Removal]:
        """Return deletions of revisions ``(since, until]``, oldest first."""
        statement = (
            self._select(outbox, outbox.c.revision, outbox.c.op, outbox.c.cube_ids)
            .where(outbox.c.revision > since, outbox.c.revision <= until)
            .order_by(outbox.c.revision)
        )
        rows = self.connection.execute(statement)
        return [Removal(row.revision, row.op == "clear", tuple(row.cube_ids)) for row in rows]

    def trim(self, until: int) -> None:
        """Drop records of revisions up to ``until``."""
        self.connection.execute(self._delete(outbox).where(outbox.c.revision <= until))


class Audit(ScopedRepository):
    """Who did what; never content."""

    def add(self, action: str, cube_id: str | None = None, **detail: Any) -> None:
        """Append one record."""
        row = {"action": action, "cube_id": cube_id, "detail": detail, "created_at": now_us()}
        self._insert(audit, [row])


class Idempotency(ScopedRepository):
    """Which idempotency keys were used, and which cubes they made."""

    def replay(self, key: str, digest: str) -> list[str] | None:
        """Return the cube ids made under ``key``, or ``None`` if it is unused.

        Raises :class:`IdempotencyConflict` when the key was used for a different request, and :class:`NotFound` when
        what was made or changed under it was forgotten since.
        """
        columns = (idempotency.c.key, idempotency.c.digest, idempotency.c.cube_ids)
        statement = self._select(idempotency, *columns).where(
            idempotency.c.key.in_((key, _buried(key))), idempotency.c.expires_at > now_us()
        )
        row = self.connection.execute(statement).first()
        if row is None:
            return None
        if row.key != key:
            raise NotFound("the memory that this idempotency key was used for was forgotten since; use a new key")
        if row.digest != digest:
            raise IdempotencyConflict(f"idempotency key {key!r} was used with a different request; use a new key")
        return list(row.cube_ids)

    def remember(
        self,
        key: str,
        digest: str,
        expires_at: int,
        *,
        cube_ids: Sequence[str] = (),
        answer: Mapping[str, Any] | None = None,
    ) -> None:
        """Record ``key`` in the transaction that made the cubes, or did what ``answer`` can be made from.

        Expired keys of the namespace go.
        """
        self.connection.execute(self._delete(idempotency).where(idempotency.c.expires_at <= now_us()))
        made = {"cube_ids": list(cube_ids), "answer": None if answer is None else dict(answer)}
        self._insert(idempotency, [{"key": key, "digest": digest, "expires_at": expires_at, **made}])

    def bury(self, cube_ids: Collection[str]) -> int:
        """Keep nothing of requests that made or changed one of some memories but that they were; return how many.

        A key is used up all the same: a request that is repeated must not bring back what was forgotten.
        """
        used = self._naming(cube_ids)
        for key in used:
            values: dict[str, Any] = {"key": _buried(key), "digest": "", "cube_ids": [], "answer": None}
            self.connection.execute(self._update(idempotency).where(idempotency.c.key == key).values(values))
        return len(used)

    def naming(self, cube_ids: Collection[str]) -> int:
        """Return how many requests are on record that made or changed one of some memories."""
        return len(self._naming(cube_ids))

    def _naming(self, cube_ids: Collection[str]) -> list[str]:
        asked = set(cube_ids)
        columns = (idempotency.c.key, idempotency.c.cube_ids, idempotency.c.answer)
        rows = self.connection.execute(self._select(idempotency, *columns))
        return [row.key for row in rows if not asked.isdisjoint(_named(row))]

    def clear(self) -> int:
        """Forget every key of the namespace; return how many."""
        return int(self.connection.execute(self._delete(idempotency)).rowcount)


def _named(row: Row[Any]) -> set[str]:
    """Return the memories that a request made or changed; a receipt names what is gone, which is another thing."""
    answer = row.answer or {}
    return set(row.cube_ids) | (set() if "receipt" in answer else ids_in(json.dumps(answer)))


def _buried(key: str) -> str:
    """Return what stands in the place of a key whose memory was forgotten: the key may have said something of it."""
    return f"forgotten:{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()}"


def request_digest(key: str, request: Any) -> str:
    """Return the hex SHA-256 of a request, salted with its key so that equal contents do not show as equal."""
    canonical = json.dumps([key, request], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
