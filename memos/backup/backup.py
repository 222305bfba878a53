"""Making a backup: rows of one moment -> the files they name -> manifest -> its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection

from memos import __version__
from memos.backup.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    EmbedderRecord,
    Manifest,
    SpaceRecord,
    payload_name,
    rows_name,
    seal,
)
from memos.backup.report import BackupReport
from memos.backup.rows import to_line, to_plain
from memos.backup.sink import Sink, packing
from memos.clock import from_us, now_us
from memos.cube import Scope
from memos.embedding.reindex import Progress
from memos.errors import NotFound
from memos.ids import new_id
from memos.payloads.base import Payload, PayloadFiles, Unusable
from memos.store import embedder_table, namespaces
from memos.store.database import Database
from memos.store.embedder_table import EmbedderRow
from memos.store.namespaces import Namespace
from memos.store.records import Audit
from memos.store.revision import HEAD
from memos.store.whole import WholeNamespace, carried_tables
from memos.transfer.export import check_target


@dataclass(slots=True)
class _Rows:
    """What was read in one snapshot; ``payloads`` are by tier and namespace."""

    created_at: int
    embedder: EmbedderRow | None
    spaces: list[Namespace] = field(default_factory=list)
    records: list[SpaceRecord] = field(default_factory=list)
    payloads: list[tuple[PayloadFiles, int, Payload]] = field(default_factory=list)


class Backup:
    """Writes namespaces to a folder or an archive, whole or not at all."""

    def __init__(self, database: Database, home: Path, tiers: Sequence[PayloadFiles]) -> None:
        self._database = database
        self._home = home
        self._tiers = tiers

    def write(self, path: Path, tenant: str | None, user_id: str | None, progress: Progress) -> BackupReport:
        """Write the namespace of a user, those of a tenant, or all.

        Files never change, so they are copied after the snapshot of the rows; one that is gone by then, or damaged, is
        left out. Raises :class:`NotFound` where nothing was ever stored, :class:`InvalidInput` and :class:`StoreFull`.
        """
        check_target(path, self._home)
        with packing(path) as sink:
            with self._database.read() as connection:
                rows = self._write_rows(connection, sink, _chosen(connection, tenant, user_id))
            for done, (tier, space, payload) in enumerate(rows.payloads, 1):
                _copy(sink, tier, rows.spaces[space], payload_name(tier.name, space, payload.key), payload)
                progress(done, len(rows.payloads))
            manifest = _manifest(rows, sink)
            with sink.create(MANIFEST) as file:
                file.write(seal(manifest.model_dump(mode="json")))
            self._note(rows.spaces, manifest)
        return _report(path, rows, manifest)

    def _write_rows(self, connection: Connection, sink: Sink, spaces: Sequence[Namespace]) -> _Rows:
        rows = _Rows(now_us(), embedder_table.active(connection))
        for place, space in enumerate(spaces):
            rows.spaces.append(space)
            rows.records.append(_write_space(connection, sink, rows_name(place), space, rows.embedder))
        for tier in self._tiers:
            for place, space in enumerate(spaces):
                found = sorted(tier.listed(connection, space.id), key=lambda payload: payload.key)
                rows.payloads += [(tier, place, payload) for payload in found]
        return rows

    def _note(self, spaces: Sequence[Namespace], manifest: Manifest) -> None:
        """Say in the audit log of each namespace that there is a backup of it: forgetting does not reach into it."""
        with self._database.write() as connection:
            for space in spaces:
                Audit(connection, space.id).add("backup", id=manifest.id)


def _chosen(connection: Connection, tenant: str | None, user_id: str | None) -> list[Namespace]:
    if user_id is None:
        return list(namespaces.every(connection, tenant))
    scope = Scope(user_id=user_id) if tenant is None else Scope(tenant=tenant, user_id=user_id)
    namespace = namespaces.find(connection, scope)
    if namespace is None:
        raise NotFound(f"nothing was ever stored for user {user_id!r}; there is nothing to back up")
    return [namespace]


def _write_space(
    connection: Connection, sink: Sink, name: str, space: Namespace, embedder: EmbedderRow | None
) -> SpaceRecord:
    """Write the rows of one namespace, a line each, such that no row refers to a later one's table."""
    whole = WholeNamespace(connection, space.id)
    counts = {}
    with sink.create(name) as file:
        for table in carried_tables():
            count = 0
            for row in whole.rows(table, embedder.id if embedder else None):
                file.write(to_line(table.name, row))
                count += 1
            counts[table.name] = count
    said = to_plain(namespaces.described(connection, space.id))
    return SpaceRecord(tenant=space.tenant, user_id=space.user_id, said=said, rows=counts)


def _copy(sink: Sink, tier: PayloadFiles, space: Namespace, name: str, payload: Payload) -> None:
    try:
        with sink.create(name) as file:
            tier.hand_over(space.tenant, payload, file.write)
    except Unusable:
        return  # a cube without its file: the restore drops it, or has it made again


def _manifest(rows: _Rows, sink: Sink) -> Manifest:
    made_by = rows.embedder
    return Manifest(
        version=FORMAT_VERSION,
        id=new_id(),
        created_at=from_us(rows.created_at),
        written_by=f"agent-memos {__version__}",
        store_schema=HEAD,
        embedder=None if made_by is None else EmbedderRecord(identity=made_by.identity, dimension=made_by.dimension),
        namespaces=tuple(rows.records),
        files=dict(sink.files),
    )


def _report(path: Path, rows: _Rows, manifest: Manifest) -> BackupReport:
    carried = {name: sum(f"/{name}/" in file for file in manifest.files) for name in ("kv", "adapters")}
    return BackupReport(
        id=manifest.id,
        path=str(path),
        created_at=manifest.created_at,
        namespaces=len(rows.spaces),
        memories=sum(space.memories for space in rows.spaces),
        kv_files=carried["kv"],
        adapters=carried["adapters"],
        left_out=len(rows.payloads) - sum(carried.values()),
        bytes=sum(file.bytes for file in manifest.files.values()),
    )
