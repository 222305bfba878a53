"""The directory of namespaces: who exists, and how far each one's change feed and index have come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from memos.clock import now_us
from memos.cube import Scope
from memos.store.schema import namespaces


@dataclass(frozen=True, slots=True)
class Namespace:
    """One row of the directory."""

    id: int
    tenant: str
    user_id: str
    revision: int
    floor_revision: int
    indexed_revision: int
    collection: str | None
    memories: int


_COLUMNS = (
    namespaces.c.id,
    namespaces.c.tenant,
    namespaces.c.user_id,
    namespaces.c.revision,
    namespaces.c.floor_revision,
    namespaces.c.indexed_revision,
    namespaces.c.collection,
    namespaces.c.memories,
)
_FIND = select(*_COLUMNS).where(
    namespaces.c.tenant == bindparam("tenant"), namespaces.c.user_id == bindparam("user_id")
)

_READ = select(*_COLUMNS).where(namespaces.c.id == bindparam("id"))


def find(connection: Connection, scope: Scope) -> Namespace | None:
    """Return the scope's namespace, or ``None`` if nothing was ever stored in it."""
    row = connection.execute(_FIND, {"tenant": scope.tenant, "user_id": scope.user_id}).mappings().first()
    return None if row is None else Namespace(**row)


def open_for_write(connection: Connection, scope: Scope) -> Namespace:
    """Lock the scope's namespace, creating it if needed, and return it with its revision already advanced by one.

    The row lock is held until the transaction ends, so revisions become visible in order: a reader that has seen
    revision ``r`` has seen everything up to ``r``.
    """
    advanced = _advance(connection, scope)
    if advanced is None:
        _create(connection, scope)
        advanced = _advance(connection, scope)
    assert advanced is not None  # created above, in this transaction or by the winner of the race
    return Namespace(**advanced)


def _advance(connection: Connection, scope: Scope) -> RowMapping | None:
    statement = (
        update(namespaces)
        .where(namespaces.c.tenant == scope.tenant, namespaces.c.user_id == scope.user_id)
        .values(revision=namespaces.c.revision + 1)
        .returning(*_COLUMNS)
    )
    return connection.execute(statement).mappings().first()


def _create(connection: Connection, scope: Scope) -> None:
    row = {"tenant": scope.tenant, "user_id": scope.user_id, "created_at": now_us()}
    try:
        with connection.begin_nested():
            connection.execute(insert(namespaces).values(row))
    except IntegrityError:
        return  # another writer created it first, which is all that was wanted


def read(connection: Connection, namespace_id: int) -> Namespace:
    """Return one namespace by number."""
    row = connection.execute(select(*_COLUMNS).where(namespaces.c.id == namespace_id)).mappings().one()
    return Namespace(**row)


def tenant_of(connection: Connection, namespace_id: int) -> str:
    """Return whose namespace this is."""
    return str(connection.scalar(_TENANT, {"number": namespace_id}))


_TENANT = select(namespaces.c.tenant).where(namespaces.c.id == bindparam("number"))


def count_memories(connection: Connection, namespace_id: int, change: int) -> None:
    """Add ``change`` to the namespace's number of live memories."""
    connection.execute(
        update(namespaces).where(namespaces.c.id == namespace_id).values(memories=namespaces.c.memories + change)
    )


def set_memories(connection: Connection, namespace_id: int, memories: int) -> None:
    """Correct the namespace's number of live memories."""
    connection.execute(update(namespaces).where(namespaces.c.id == namespace_id).values(memories=memories))


def set_index(connection: Connection, namespace_id: int, collection: str | None, indexed_revision: int) -> None:
    """Record which collection serves the namespace and up to which revision, now that nobody is writing it."""
    connection.execute(
        update(namespaces)
        .where(namespaces.c.id == namespace_id)
        .values(collection=collection, indexed_revision=indexed_revision, indexing=False)
    )


def begin_indexing(connection: Connection, namespace_id: int) -> None:
    """Record that the namespace's collection is about to be written."""
    connection.execute(update(namespaces).where(namespaces.c.id == namespace_id).values(indexing=True))


def distrust_index(connection: Connection, namespace_id: int) -> None:
    """Record that nothing in the namespace's collection can be relied on."""
    connection.execute(update(namespaces).where(namespaces.c.id == namespace_id).values(indexed_revision=0))


def distrust_half_indexed(connection: Connection) -> int:
    """Do the same for collections that were being written when the last process ended; return how many."""
    torn = update(namespaces).where(namespaces.c.indexing).values(indexed_revision=0, indexing=False)
    return int(connection.execute(torn).rowcount)


def raise_floor(connection: Connection, namespace_id: int, revision: int) -> None:
    """Record that deletion records up to ``revision`` were trimmed."""
    connection.execute(update(namespaces).where(namespaces.c.id == namespace_id).values(floor_revision=revision))


def lock(connection: Connection, namespace_id: int) -> Namespace:
    """Lock one namespace without advancing it, and return its present row."""
    connection.execute(
        update(namespaces).where(namespaces.c.id == namespace_id).values(created_at=namespaces.c.created_at)
    )
    return read(connection, namespace_id)


def every(connection: Connection, tenant: str | None = None) -> Iterator[Namespace]:
    """Yield all namespaces (of one tenant, if given) in the order they were created."""
    statement = select(*_COLUMNS).order_by(namespaces.c.id)
    if tenant is not None:
        statement = statement.where(namespaces.c.tenant == tenant)
    for row in connection.execute(statement).mappings():
        yield Namespace(**row)


def behind(connection: Connection, threshold: int) -> list[Namespace]:
    """Return the namespaces whose vector index has work to do: lagging behind, or grown past ``threshold``."""
    lagging = namespaces.c.collection.is_not(None) & (namespaces.c.indexed_revision < namespaces.c.revision)
    grown = namespaces.c.collection.is_(None) & (namespaces.c.memories >= threshold)
    rows = connection.execute(select(*_COLUMNS).where(lagging | grown)).mappings()
    return [Namespace(**row) for row in rows]


def forget_all_indexes(connection: Connection) -> None:
    """Mark every namespace as not indexed, as after a change of embedder."""
    connection.execute(update(namespaces).values(collection=None, indexed_revision=0))


#: What a row of the directory says of this store alone: its number, who reads along, and how far its index has come.
_OF_THIS_STORE = frozenset({"id", "floor_revision", "indexed_revision", "collection", "indexing"})
#: What it says that holds in any store.
CARRIED = tuple(column for column in namespaces.c if column.name not in _OF_THIS_STORE)


def described(connection: Connection, namespace_id: int) -> dict[str, Any]:
    """Return what the directory says of a namespace that holds in any store, by column."""
    return dict(connection.execute(select(*CARRIED).where(namespaces.c.id == namespace_id)).mappings().one())


def restore(connection: Connection, namespace_id: int, said: dict[str, Any], revision: int) -> None:
    """Let the directory say of an open namespace what :func:`described` returned, as of a revision of this store.

    Whoever has read the namespace at an earlier one must read it anew.
    """
    values = {**said, "revision": revision, "floor_revision": revision, "indexed_revision": 0}
    connection.execute(update(namespaces).where(namespaces.c.id == namespace_id).values(values))
