"""A namespace whole: the rows of every table that has any, out of the tables as they are and in again.

Which tables and columns there are is read from the schema, so a new table is in the next backup without a word here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Column, Table, func
from sqlalchemy.exc import DataError, IntegrityError

from memos.errors import BackupRefused
from memos.store.schema import MEMORY_TABLES, cubes, metadata
from memos.store.scoped import ScopedRepository

#: Tables that are not carried, and why. Every other table with a namespace is (tests/backup/test_tables.py).
LEFT_OUT = {"outbox": "it tells indexes of deletions, and they are built anew where a namespace is restored"}
#: Tables outside namespaces that are not carried, and why.
NOT_OF_A_NAMESPACE = {
    "api_keys": "a restore must not bring back a key that was revoked since",
    "job_totals": "what ended in the store that was backed up did not end here",
    "compositions": "they are measured anew of the model that serves there",
    "embedders": "the manifest names the one whose vectors are carried",
    "namespaces": "the manifest has what they say",
}
#: Logs outlive a restore: what is there stays, and rows that are there already are not added again.
LOGS = frozenset({"audit"})
_PAGE = 500

TableRow = dict[str, Any]


def carried_tables() -> list[Table]:
    """Return the tables of a namespace that are carried, such that no row refers to a later table."""
    return [table for table in metadata.sorted_tables if table in MEMORY_TABLES and table.name not in LEFT_OUT]


def carried_columns(table: Table) -> list[Column[Any]]:
    """Return what is carried of a row: all but whose it is, its embedder, and a number that means nothing elsewhere."""
    own = {"namespace_id", getattr(table.autoincrement_column, "name", None)}
    return [column for column in table.c if column.name not in own and column is not embedder_column(table)]


def embedder_column(table: Table) -> Column[Any] | None:
    """Return the column that says which embedder made a row, if the table has one."""
    return next((column for column in table.c if _refers_to(column, "embedders.id")), None)


def _refers_to(column: Column[Any], target: str) -> bool:
    return any(key.target_fullname == target for key in column.foreign_keys)


class WholeNamespace(ScopedRepository):
    """All rows of one namespace, within one transaction. ``embedder_id`` is the store's number of the one carried."""

    def rows(self, table: Table, embedder_id: int | None) -> Iterator[TableRow]:
        """Yield the rows of a table in the order of its key, page by page, as ``carried_columns`` names them."""
        statement = self._select(table, *carried_columns(table)).order_by(*table.primary_key)
        made_by = embedder_column(table)
        if made_by is not None:
            statement = statement.where(made_by == embedder_id)
        for row in self.connection.execute(statement.execution_options(yield_per=_PAGE)).mappings():
            yield dict(row)

    def insert(self, table: Table, rows: Sequence[TableRow], embedder_id: int | None) -> None:
        """Write rows. Raises :class:`BackupRefused` for rows that this database cannot take."""
        made_by = embedder_column(table)
        more = {} if made_by is None else {made_by.name: embedder_id}
        try:
            self._insert(table, [{**row, **more} for row in rows])
        except (IntegrityError, DataError) as error:
            raise BackupRefused(
                f"the backup has rows of {table.name} that do not fit: another namespace of this store has the same "
                f"ids, or the backup contradicts itself; nothing was restored"
            ) from error

    def holds_memories(self) -> bool:
        """Whether there is any cube."""
        return self.connection.execute(self._select(cubes, cubes.c.id).limit(1)).first() is not None

    def clear(self) -> None:
        """Remove every row but those of logs."""
        for table in reversed(metadata.sorted_tables):
            if table in MEMORY_TABLES and table.name not in LOGS:
                self.connection.execute(self._delete(table))

    def renumber(self, revision: int) -> None:
        """Let every cube be as new as ``revision``, so that whoever follows the changes of the namespace sees it."""
        self.connection.execute(self._update(cubes).values(revision=revision))

    def check_borders(self) -> None:
        """Raise :class:`BackupRefused` if a row refers to a cube of another namespace, as no backup made here does."""
        for table in carried_tables():
            for column in table.c:
                if _refers_to(column, "cubes.id"):
                    abroad = self._select(table, func.count()).join_from(table, cubes, column == cubes.c.id)
                    if self.connection.scalar(abroad.where(cubes.c.namespace_id != self.namespace_id)):
                        raise BackupRefused(f"the backup's {table.name} reach into another namespace of this store")
