"""Which embedders have made vectors in this store, and which one serves."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, text, update

from memos.clock import now_us
from memos.store.schema import embedders


@dataclass(frozen=True, slots=True)
class EmbedderRow:
    """An embedder known to the store. ``dimension`` counts float32 elements per vector.

    ``created_at`` tells it from the embedder of the same number in any other store.
    """

    id: int
    identity: str
    dimension: int
    active: bool
    created_at: int


_COLUMNS = (
    embedders.c.id,
    embedders.c.identity,
    embedders.c.dimension,
    embedders.c.active,
    embedders.c.created_at,
)


def share(connection: Connection) -> None:
    """Keep the serving embedder as it is until this transaction ends; to be called before a namespace is locked."""
    _lock(connection, "pg_advisory_xact_lock_shared")


def hold(connection: Connection) -> None:
    """Wait for every transaction that shares the serving embedder, and keep others out until this one ends."""
    _lock(connection, "pg_advisory_xact_lock")


def _lock(connection: Connection, function: str) -> None:
    if connection.dialect.name == "postgresql":  # SQLite has one writer anyway
        connection.execute(text(f"SELECT {function}(hashtext('memos-embedder'))"))


_ACTIVE = select(*_COLUMNS).where(embedders.c.active)


def active(connection: Connection) -> EmbedderRow | None:
    """Return the embedder whose vectors serve recall, or ``None`` in an empty store."""
    row = connection.execute(_ACTIVE).mappings().first()
    return None if row is None else EmbedderRow(**row)


def register(connection: Connection, identity: str, dimension: int) -> EmbedderRow:
    """Return the row for ``identity``, added if new; the first one ever becomes active."""
    known = connection.execute(select(*_COLUMNS).where(embedders.c.identity == identity)).mappings().first()
    if known is not None:
        return EmbedderRow(**known)
    row = {
        "identity": identity,
        "dimension": dimension,
        "active": active(connection) is None,
        "created_at": now_us(),
    }
    made = connection.execute(insert(embedders).values(row).returning(*_COLUMNS)).mappings().one()
    return EmbedderRow(**made)


def activate(connection: Connection, embedder_id: int) -> None:
    """Make one embedder the serving one."""
    connection.execute(update(embedders).values(active=embedders.c.id == embedder_id))


def remove_others(connection: Connection, embedder_id: int) -> None:
    """Drop the rows of all embedders but one; their vectors must be gone already."""
    connection.execute(delete(embedders).where(embedders.c.id != embedder_id))
