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
    Executable,
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
        return select(*columns or (table,)).where(table.c.namespace_id == bindparam("of_namespace"))

    @staticmethod
    def _prepared_update(table: Table) -> Update:
        """Return the same as :meth:`_update`; values are bound under names that no column has."""
        return update(table).where(table.c.namespace_id == bindparam("of_namespace"))

    def _run(self, prepared: Executable, **values: Any) -> CursorResult[Any]:
        return self.connection.execute(prepared, {"of_namespace": self.namespace_id, **values})

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
    if (scope := _owner(connection, tenant, jobs, job_id)) is None:
        raise NotFound(f"no job {job_id!r} here")
    return scope


def locate_hold(connection: Connection, tenant: str, hold_id: str) -> Scope:
    """Return the namespace of a tenant that a hold is on, as a scope. Raises :class:`NotFound`."""
    if (scope := _owner(connection, tenant, holds, hold_id)) is None:
        raise NotFound(f"no legal hold {hold_id!r} here; it may have been released")
    return scope


def _owner(connection: Connection, tenant: str, table: Table, row_id: str) -> Scope | None:
    statement = (
        select(namespaces.c.user_id)
        .join_from(table, namespaces, table.c.namespace_id == namespaces.c.id)
        .where(table.c.id == row_id, namespaces.c.tenant == tenant)
    )
    user_id = connection.scalar(statement) if is_id(row_id) else None
    return None if user_id is None else Scope(tenant=tenant, user_id=user_id)


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


def queued_jobs(connection: Connection) -> dict[str, int]:
    """Return how many jobs wait, by task."""
    waiting = select(jobs.c.task, func.count()).where(jobs.c.state == "queued").group_by(jobs.c.task)
    return {row[0]: int(row[1]) for row in connection.execute(waiting)}


def unfinished_jobs(connection: Connection, tasks: Collection[str] | None = None) -> list[tuple[Scope, str]]:
    """Return whose job (of some tasks, if given) waits or is running, oldest first."""
    statement = _WHOSE.where(jobs.c.state.in_(("queued", "running"))).order_by(jobs.c.id)
    if tasks is not None:
        statement = statement.where(jobs.c.task.in_(tasks))
    return [_owned(row) for row in connection.execute(statement)]


_WHOSE = select(namespaces.c.tenant, namespaces.c.user_id, jobs.c.id).join_from(
    jobs, namespaces, jobs.c.namespace_id == namespaces.c.id
)
#: Tasks of which a namespace has one job running at a time: when one ends, all that waited is done.
ONE_AT_A_TIME = ("notes",)
_OTHER = jobs.alias("other")
_OCCUPIED = jobs.c.task.in_(ONE_AT_A_TIME) & (
    select(_OTHER.c.id)
    .where(_OTHER.c.namespace_id == jobs.c.namespace_id, _OTHER.c.state == "running", _OTHER.c.task == jobs.c.task)
    .exists()
)
_DUE = (
    jobs.c.state == "queued",
    jobs.c.run_after <= bindparam("now"),
    jobs.c.task.in_(bindparam("tasks", expanding=True)),
    ~_OCCUPIED,
)


def _owned(row: Any) -> tuple[Scope, str]:
    return Scope(tenant=row.tenant, user_id=row.user_id), row.id


def _turns() -> Select[Any]:
    """Return tenants with a due job in the order of their turns.

    Jobs themselves say who waits: the index is jumped through from tenant to tenant, so that a thousand jobs of one
    cost no more than one.
    """
    queued = select(func.min(jobs.c.tenant).label("tenant")).where(jobs.c.state == "queued")
    waiting = queued.cte("waiting", recursive=True)
    following = queued.where(jobs.c.tenant > waiting.c.tenant).correlate(waiting).scalar_subquery()
    waiting = waiting.union_all(select(following).where(waiting.c.tenant.is_not(None)))
    own = jobs.c.tenant == waiting.c.tenant
    running = select(func.count()).where(jobs.c.state == "running", own).scalar_subquery()
    due = select(jobs.c.id).where(own, *_DUE).limit(1).scalar_subquery()  # PostgreSQL would make a join of EXISTS
    present = (waiting.c.tenant.is_not(None), due.is_not(None))
    order = (running, waiting.c.tenant <= bindparam("after"), waiting.c.tenant)
    return select(waiting.c.tenant).where(*present).order_by(*order).limit(TENANTS)


#: Tenants that a search for a job looks at; what is due of these many may be locked by others.
TENANTS = 16
_TURNS = _turns()
_NEXT = (
    _WHOSE.add_columns(jobs.c.namespace_id)
    .where(jobs.c.tenant == bindparam("tenant"), *_DUE)
    .order_by(jobs.c.priority.desc(), jobs.c.id)
    .limit(1)
    .with_for_update(of=jobs, skip_locked=True)
)


def next_job(connection: Connection, tasks: Collection[str], after: str) -> tuple[Scope, str, int] | None:
    """Return whose job is to be run next, its id and the number of its namespace, and lock it until the commit.

    It is one of the tenant with the fewest jobs running; among those with equally many it goes round, beginning behind
    the tenant ``after``. Of a tenant's jobs that of the highest priority comes first, of these the oldest.
    """
    wanted = {"now": now_us(), "tasks": list(tasks)}
    for tenant in connection.scalars(_TURNS, {**wanted, "after": after}).all():
        row = connection.execute(_NEXT, {**wanted, "tenant": tenant}).first()
        if row is not None:
            return *_owned(row), row.namespace_id
    return None


def due_jobs(connection: Connection, tasks: Collection[str], most: int) -> list[tuple[Scope, str]]:
    """Return whose job could be run now, those first that could for longest."""
    statement = _WHOSE.where(*_DUE).order_by(jobs.c.run_after).limit(most)
    return [_owned(row) for row in connection.execute(statement, {"now": now_us(), "tasks": list(tasks)})]


def next_due(connection: Connection, tasks: Collection[str]) -> int | None:
    """Return when (microseconds) the first job that is put off may be run, or the first lease ends, if there is any."""
    mine = jobs.c.task.in_(list(tasks))
    put_off = (jobs.c.state == "queued", jobs.c.run_after > now_us())
    waiting = select(func.min(jobs.c.run_after)).where(*put_off, mine)
    running = select(func.min(jobs.c.lease_until)).where(jobs.c.state == "running", mine)
    times = (connection.scalar(waiting), connection.scalar(running))
    return min((time for time in times if time is not None), default=None)


def abandoned_jobs(connection: Connection, tasks: Collection[str], before: int) -> list[tuple[int, str]]:
    """Return namespace and id of every job that is running under a lease which ended before a time (microseconds)."""
    running = select(jobs.c.namespace_id, jobs.c.id).where(jobs.c.state == "running", jobs.c.lease_until < before)
    return [(row[0], row[1]) for row in connection.execute(running.where(jobs.c.task.in_(list(tasks))))]


def old_jobs(connection: Connection, before: int, most: int = IN_CHUNK) -> list[tuple[int, str]]:
    """Return namespace and id of jobs that were done or cancelled before a time (microseconds)."""
    over = jobs.c.state.in_(("done", "cancelled")) & (jobs.c.updated_at < before)
    statement = select(jobs.c.namespace_id, jobs.c.id).where(over).limit(most)
    return [(row[0], row[1]) for row in connection.execute(statement)]


def activation_keys(connection: Connection) -> set[str]:
    """Return the keys of every KV file that a cube still needs; any other file is an orphan."""
    return set(connection.scalars(select(activations.c.key)))


def adapter_keys(connection: Connection) -> set[str]:
    """Return the keys of every adapter file that a cube still needs; any other file is an orphan."""
    return set(connection.scalars(select(adapters.c.key).where(adapters.c.key.is_not(None))))
