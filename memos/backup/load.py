"""One namespace of a backup into the tables and folders of this store, within the transaction that restores it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, islice
from typing import IO, Any

from sqlalchemy import Connection, LargeBinary, Table

from memos.backup.manifest import SpaceRecord
from memos.backup.rows import TableRow, from_lines, from_plain, told_apart
from memos.cube import Scope
from memos.errors import BackupRefused, StoreFull
from memos.payloads.base import Payload, PayloadFiles, Unusable
from memos.store import namespaces
from memos.store.derived import Derived, Gone
from memos.store.embedder_table import EmbedderRow
from memos.store.jobs import JobRepository
from memos.store.mixture import FLOAT32
from memos.store.namespaces import Namespace
from memos.store.records import Audit, Outbox
from memos.store.whole import LOGS, WholeNamespace, carried_columns, carried_tables, embedder_column

_PAGE = 500
_NEEDED = frozenset({"tenant", "user_id", "revision", "memories", "created_at"})


class SpaceLoader:
    """Empties an open namespace, and fills it with what a backup has of it.

    ``replaced`` are the derived cubes that were there before, ``taken`` counts the files taken in, by tier.
    """

    def __init__(
        self,
        connection: Connection,
        namespace: Namespace,
        record: SpaceRecord,
        embedder: EmbedderRow | None,
        tiers: Sequence[PayloadFiles],
    ) -> None:
        self.scope = Scope(tenant=namespace.tenant, user_id=namespace.user_id)
        self.said = _said(record)
        self.taken: Counter[str] = Counter()
        self._connection = connection
        self._namespace = namespace
        self._rows = Counter(record.rows)
        self._embedder = embedder
        self._tiers = tiers
        self._whole = WholeNamespace(connection, namespace.id)
        self._waiting: dict[str, dict[str, Payload]] = {}
        self.replacing = self._whole.holds_memories()
        self.replaced = Derived(connection, namespace.id).remove_all()
        self._whole.clear()
        self._logged = {table.name: self._present(table) for table in carried_tables() if table.name in LOGS}

    def take_rows(self, file: IO[bytes]) -> None:
        """Write the rows of the namespace. Raises :class:`BackupRefused`."""
        tables = {table.name: table for table in carried_tables()}
        counted: Counter[str] = Counter()
        for name, lines in groupby(from_lines(file), key=lambda line: line[0]):
            if name not in tables:
                raise BackupRefused(f"the backup has a table {name!r} that this version does not know")
            while rows := [row for _, row in islice(lines, _PAGE)]:
                counted[name] += len(rows)
                self._insert(tables[name], rows)
        if counted != self._rows:
            raise BackupRefused("the backup has not the rows that its manifest counts; nothing was restored")
        self._whole.check_borders()
        JobRepository(self._connection, self._namespace.id).let_go()
        for tier in self._tiers:
            listed = tier.listed(self._connection, self._namespace.id)
            self._waiting[tier.name] = {payload.key: payload for payload in listed}

    def take_payload(self, tier: PayloadFiles, key: str, size: int, file: IO[bytes]) -> str | None:
        """Take in the file of a cube and return its key here; ``None`` for one that has no cube, or finds no room."""
        payload = self._waiting[tier.name].get(key)
        if payload is None or payload.bytes != size:
            return None
        try:
            found = tier.adopt(self._connection, self._namespace.id, self.scope, payload, file)
        except (Unusable, StoreFull):
            return None
        del self._waiting[tier.name][key]
        self.taken[tier.name] += 1
        return found

    def finish(self) -> Gone:
        """Drop the derived cubes that have no file here, and let the directory say what it said."""
        left = [payload.cube_id for waiting in self._waiting.values() for payload in waiting.values()]
        gone = Derived(self._connection, self._namespace.id).lose(left)
        namespaces.restore(self._connection, self._namespace.id, self.said, self._revision())
        Audit(self._connection, self._namespace.id).add("restore", None, count=self.said["memories"], **gone.counts)
        return gone

    # ------------------------------------------------------------ inside

    def _revision(self) -> int:
        """Return the revision that the namespace is at from now on: never an earlier one than it was.

        Where it was there before, an index may be following it this moment, and is told of the change as of any other.
        """
        revision: int = max(self._namespace.revision, self.said["revision"])
        if self._namespace.revision > 1:
            self._whole.renumber(revision)
            Outbox(self._connection, self._namespace.id).add(revision, [], clear=True)
        return revision

    def _insert(self, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
        columns, embedder_id = carried_columns(table), self._embedder.id if self._embedder else None
        checked = [from_plain(columns, row) for row in rows]
        if embedder_column(table) is not None:
            self._check_vectors(table, checked)
        if present := self._logged.get(table.name):
            checked = [row for row in checked if told_apart(row) not in present]
        self._whole.insert(table, checked, embedder_id)

    def _present(self, table: Table) -> set[str]:
        return {told_apart(row) for row in self._whole.rows(table, None)}

    def _check_vectors(self, table: Table, rows: Sequence[TableRow]) -> None:
        """Raise :class:`BackupRefused` for vectors of another length than the embedder's."""
        size = FLOAT32.itemsize * self._embedder.dimension if self._embedder else None
        names = [column.name for column in table.c if isinstance(column.type, LargeBinary)]
        if any(row.get(name) is not None and len(row[name]) != size for row in rows for name in names):
            raise BackupRefused("the backup has vectors of another length than its embedder's; nothing was restored")


def _said(record: SpaceRecord) -> TableRow:
    said = from_plain(namespaces.CARRIED, record.said)
    named = (said.get("tenant"), said.get("user_id"))
    if not said.keys() >= _NEEDED or named != (record.tenant, record.user_id):
        raise BackupRefused("the manifest does not say whose memories it holds; nothing was restored")
    return said
