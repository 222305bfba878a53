"""How many jobs ended how, over all processes: counted in the transaction that ends one."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from memos.store.schema import job_totals


def count_ended(connection: Connection, task: str, state: str) -> None:
    """Count a job that ended."""
    if not _counted(connection, task, state):
        try:
            with connection.begin_nested():
                connection.execute(insert(job_totals).values(task=task, state=state, count=1))
        except IntegrityError:  # another process was faster with the first one
            _counted(connection, task, state)


def ended_jobs(connection: Connection) -> dict[tuple[str, str], int]:
    """Return how many jobs ended, by task and state."""
    return {(row.task, row.state): row.count_ for row in connection.execute(_ALL)}


_ALL = select(job_totals.c.task, job_totals.c.state, job_totals.c.count.label("count_"))
_COUNT = (
    update(job_totals)
    .where(job_totals.c.task == bindparam("of_task"), job_totals.c.state == bindparam("ending"))
    .values(count=job_totals.c.count + 1)
)


def _counted(connection: Connection, task: str, state: str) -> bool:
    return connection.execute(_COUNT, {"of_task": task, "ending": state}).rowcount > 0
