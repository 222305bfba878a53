"""The only place where statements on memory tables are made: each is bound to one namespace.

A repository derives from :class:`ScopedRepository`; tests/test_scope_rule.py walks the source so that no other module
builds a statement on a memory table.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    CursorResult,
    Delete,
    Select,
    Table,
    Update,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from memos.clock import now_us
from memos.cube import Scope, check_name
from memos.errors import NotFound
from memos.ids import is_id
from memos.store.schema import activations, adapters, cubes, holds, idempotency, jobs, namespaces, retentions

IN_CHUNK = 500  # bound variables per IN list


class ScopedRepository:
    """Statements on memory tables within one namespace and one transaction."""

    def __init__(self, connection: Connection, namespace_id: int) -> None:
        self.connection = connection
        self.namespace_id = namespace_id

    def _select(self, table: Table, *columns: ColumnElement[Any]) -> Select[Any]:
        return select(*columns or (table,)).where(table.c.namespace_id == self.namespace_id)

    @staticmethod
    def _prepared(table: Table, *columns: ColumnElement[Any]) -> Select[Any]:
        """Return the same to be built once, for statements of a hot path: :meth:`_run` gives it the namespace."""
        return select(*columns or (table,)).where(table.c.namespace_id == bindparam("namespace_id"))

    def _run(self, prepared: Select[Any], **values: Any) -> CursorResult[Any]:
        return self.connection.execute(prepared, {"namespace_id": self.namespace_id, **values})

    def _insert(self, table: Table, rows: list[dict[str, Any]]) -> None:
        if rows:
            self.connection.execute(insert(table), [{**row, "namespace_id": self.namespace_id} for row in rows])

    def _update(self, table: Table) -> Update:
        return update(table).where(table.c.namespace_id == self.namespace_id)

    def _delete(self, table: Table) -> Delete:
        return delete(table).where(table.c.namespace_id == self.namespace_id)


_HOME = (
    select(namespaces.c.user_id, namespaces.c.id)
    .join_from(cubes, namespaces, cubes.c.namespace_id == namespaces.c.id)
    .where(cubes.c.id == bindparam("cube_id"), namespaces.c.tenant == bindparam("tenant"))
)


def locate(connection: Connection, tenant: str, cube_id: str, user_id: str | None = None) -> Scope:
    """Return the namespace that holds a cube, as a scope. Raises :class:`NotFound`, see :func:`home_of`."""
    return home_of(connection, tenant, cube_id, user_id)[0]


def home_of(connection: Connection, tenant: str, cube_id: str, user_id: str | None = None) -> tuple[Scope, int]:
    """Return the namespace of a tenant (of one user, if given) that holds a cube, as a scope, and its number.

    Raises :class:`NotFound`, with the same words whether the id is malformed, unknown or somebody else's.
    """
    check_name(user_id, "user_id")
    if not is_id(cube_id):
        raise NotFound(f"no memory {cube_id!r} here; it may have been forgotten")
    found = connection.execute(_HOME, {"cube_id": cube_id, "tenant": tenant}).first()
    if found is None or user_id not in (None, found.user_id):
        raise NotFound(f"no memory {cube_id!r} here; it may have been forgotten")
    return Scope(tenant=tenant, user_id=found.user_id), found.id


def taken(connection: Connection, cube_ids: Sequence[str], apart_from: int) -> set[str]:
    """Return which ids belong to a cube of any namespace but ``apart_from``: an import must not use them again."""
    found: set[str] = set()
    for start in range(0, len(cube_ids), IN_CHUNK):
        chunk = cube_ids[start : start + IN_CHUNK]
        statement = select(cubes.c.id).where(cubes.c.id.in_(chunk), cubes.c.namespace_id != apart_from)
        found.update(connection.scalars(statement))
    return found


def locate_job(connection: Connection, tenant: str, job_id: str) -> Scope:
    """Return the namespace of a tenant that holds a job, as a scope. Raises :class:`NotFound`."""
    statement = (
        select(namespaces.c.user_id)
        .join_from(jobs, namespaces, jobs.c.namespace_id == namespaces.c.id)
        .where(jobs.c.id == job_id, namespaces.c.tenant == tenant)
    )
    owner = connection.scalar(statement) if is_id(job_id) else None
    if owner is None:
        raise NotFound(f"no job {job_id!r} here")
    return Scope(tenant=tenant, user_id=owner)


def locate_hold(connection: Connection, tenant: str, hold_id: str) -> Scope:
    """Return the namespace of a tenant that a hold is on, as a scope. Raises :class:`NotFound`."""
    statement = (
        select(namespaces.c.user_id)
        .join_from(holds, namespaces, holds.c.namespace_id == namespaces.c.id)
        .where(holds.c.id == hold_id, namespaces.c.tenant == tenant)
    )
    owner = connection.scalar(statement) if is_id(hold_id) else None
    if owner is None:
        raise NotFound(f"no legal hold {hold_id!r} here; it may have been released")
    return Scope(tenant=tenant, user_id=owner)


def due(connection: Connection, now: int) -> list[Scope]:
    """Return the namespaces in which memories have expired by ``now`` (microseconds), or are kept for a time only."""
    expired = select(cubes.c.namespace_id).where(cubes.c.expires_at <= now)
    statement = (
        select(namespaces.c.tenant, namespaces.c.user_id)
        .where(or_(namespaces.c.id.in_(expired), namespaces.c.id.in_(select(retentions.c.namespace_id))))
        .order_by(namespaces.c.id)
    )
    return [Scope(tenant=row.tenant, user_id=row.user_id) for row in connection.execute(statement)]


def answer_of(connection: Connection, tenant: str, key: str, digest: str) -> dict[str, Any] | None:
    """Return what a request was answered with under a key, in whichever namespace of a tenant, ``None`` if in none."""
    statement = (
        select(idempotency.c.answer)
        .join_from(idempotency, namespaces, idempotency.c.namespace_id == namespaces.c.id)
        .where(
            idempotency.c.key == key,
            idempotency.c.digest == digest,
            idempotency.c.expires_at > now_us(),
            namespaces.c.tenant == tenant,
        )
    )
    return connection.scalar(statement)


def totals(connection: Connection) -> tuple[dict[str, int], dict[str, int]]:
    """Return what the whole store holds, and its jobs by state: numbers alone, for whoever runs it."""
    held = {
        "namespaces": select(func.count()).select_from(namespaces),
        "memories": select(func.coalesce(func.sum(namespaces.c.memories), 0)),
        "kv_files": select(func.count()).select_from(activations),
        "kv_bytes": select(func.coalesce(func.sum(activations.c.bytes), 0)),
        "adapters": select(func.count()).select_from(adapters),
        "adapter_bytes": select(func.coalesce(func.sum(adapters.c.bytes), 0)),
    }
    states = connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state))
    counted = {what: int(connection.scalar(statement) or 0) for what, statement in held.items()}
    return counted, {row[0]: int(row[1]) for row in states}


def unfinished_jobs(connection: Connection, tasks: Collection[str] | None = None) -> list[tuple[Scope, str]]:
    """Return whose job (of some tasks, if given) waits or was running, oldest first: what a new process looks at."""
    statement = (
        select(namespaces.c.tenant, namespaces.c.user_id, jobs.c.id)
        .join_from(jobs, namespaces, jobs.c.namespace_id == namespaces.c.id)
        .where(jobs.c.state.in_(("queued", "running")))
        .order_by(jobs.c.id)
    )
    if tasks is not None:
        statement = statement.where(jobs.c.task.in_(tasks))
    return [(Scope(tenant=row.tenant, user_id=row.user_id), row.id) for row in connection.execute(statement)]


def activation_keys(connection: Connection) -> set[str]:
    """Return the keys of every KV file that a cube still needs; any other file is an orphan."""
    return set(connection.scalars(select(activations.c.key)))


def adapter_keys(connection: Connection) -> set[str]:
    """Return the keys of every adapter file that a cube still needs; any other file is an orphan."""
    return set(connection.scalars(select(adapters.c.key).where(adapters.c.key.is_not(None))))
