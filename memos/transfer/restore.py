"""Bringing exported memories back, with their ids, history, states and links."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Set
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from memos.config import Settings
from memos.cube import Scope
from memos.embedding.base import Embedder
from memos.embedding.reindex import Progress
from memos.embedding.serving import ServingEmbedder, register
from memos.errors import Conflict
from memos.plaintext.writer import embed_in_batches
from memos.store import namespaces
from memos.store.archive import Archive, Rows, TableRow
from memos.store.cube_rows import vector_row
from memos.store.database import Database
from memos.store.namespaces import Namespace
from memos.store.quota import check_memories
from memos.store.records import Audit
from memos.store.scoped import taken
from memos.transfer.record import MemoryRecord
from memos.transfer.rows import cube_row, influence_row, link_row, noted, source_row, version_row

_ATTEMPTS = 3
_NOISE = (1 << 62) - 1

Vectors = Mapping[str, NDArray[np.float32]]


class Restorer:
    """Writes the memories of an export that a namespace does not have yet, all in one transaction."""

    def __init__(self, database: Database, embedder: ServingEmbedder, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._embedder = embedder

    def restore(self, scope: Scope, records: Sequence[MemoryRecord], progress: Progress) -> int:
        """Restore what is not there yet; return how many memories that were.

        An id that another namespace holds is replaced by :func:`twin`, in links too.
        """
        new = self._absent(scope, records)
        if not new:
            return 0
        return self._embedder.steady(
            lambda embedder: self._restore(scope, records, _embed(new, embedder, progress), embedder)
        )

    def _restore(
        self,
        scope: Scope,
        records: Sequence[MemoryRecord],
        vectors: Vectors,
        embedder: Embedder,
    ) -> int:
        for _ in range(_ATTEMPTS):
            try:
                return self._write(scope, records, vectors, embedder)
            except IntegrityError:  # another namespace was given the same ids meanwhile
                continue
        raise Conflict("the same memories are being imported elsewhere; repeat this import")

    def _write(
        self,
        scope: Scope,
        records: Sequence[MemoryRecord],
        vectors: Vectors,
        embedder: Embedder,
    ) -> int:
        with self._database.write() as connection:
            embedder_id = register(connection, embedder).id
            namespace = namespaces.open_for_write(connection, scope)
            plan = _Plan(connection, namespace, scope, records)
            check_memories(self._settings, namespace.memories, len(plan.absent))
            rows = plan.rows(vectors, embedder_id)
            Archive(connection, namespace.id).restore(rows)
            namespaces.count_memories(connection, namespace.id, len(rows.cubes))
            Audit(connection, namespace.id).add("import", count=len(rows.cubes))
        return len(rows.cubes)

    def _absent(self, scope: Scope, records: Sequence[MemoryRecord]) -> list[MemoryRecord]:
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            if namespace is None:
                return list(records)
            return _Plan(connection, namespace, scope, records).absent


class _Plan:
    """Under which ids memories are restored, and which are there already, as of one transaction."""

    def __init__(
        self,
        connection: Connection,
        namespace: Namespace,
        scope: Scope,
        records: Sequence[MemoryRecord],
    ) -> None:
        ids = [record.id for record in records]
        elsewhere = taken(connection, ids, namespace.id)
        self.ids = {name: twin(name, scope) if name in elsewhere else name for name in ids}
        self._archive = Archive(connection, namespace.id)
        self._present = self._archive.present([*self.ids.values()])
        self.absent = [record for record in records if self.ids[record.id] not in self._present]
        self._records = records
        self._namespace = namespace

    def rows(self, vectors: Vectors, embedder_id: int) -> Rows:
        """Return the rows of what is absent; a memory forgotten since its vectors were made has none and is left."""
        rows = Rows()
        new = [record for record in self.absent if all(version.text in vectors for version in record.versions)]
        for record in new:
            cube_id = self.ids[record.id]
            rows.cubes.append(cube_row(record, cube_id, self._namespace.revision))
            for version in record.versions:
                rows.versions.append(version_row(version, cube_id))
                vector, note = vectors[version.text], noted(version)
                enriched = vectors.get(note) if note is not None else None
                made = vector_row(cube_id, version.version, vector, enriched, embedder_id=embedder_id)
                rows.vectors.append(made)
                rows.influences.extend(
                    influence_row(cube_id, version.version, self.ids.get(one, one)) for one in version.influences
                )
            rows.parents.extend(self._sources(record))
        rows.links.extend(self._links({row["id"] for row in rows.cubes}))
        return rows

    def _sources(self, record: MemoryRecord) -> list[TableRow]:
        """Return the near-duplicates a memory stands for that are in the file with it."""
        here = [source for source in record.sources if source.id in self.ids]
        return [
            source_row(source, self.ids[record.id], self.ids[source.id], place) for place, source in enumerate(here)
        ]

    def _links(self, new: Set[str]) -> list[TableRow]:
        """Return the links that a new memory has part in and whose other end is here too."""
        links = [(self.ids[record.id], link) for record in self._records for link in record.links]
        outside = [link.target_id for _, link in links if link.target_id not in self.ids]
        ids = {**{name: name for name in self._archive.present(outside)}, **self.ids}
        here = new | self._present | set(outside)
        rows = {}
        for source, link in links:
            target = ids.get(link.target_id)
            if target is not None and {source, target} <= here and new & {source, target}:
                rows[source, target, link.type] = link_row(link, source, target)
        return [*rows.values()]


def _embed(records: Sequence[MemoryRecord], embedder: Embedder, progress: Progress) -> Vectors:
    versions = [version for record in records for version in record.versions]
    texts = [*dict.fromkeys([*(version.text for version in versions), *filter(None, map(noted, versions))])]
    return dict(zip(texts, embed_in_batches(embedder, texts, progress), strict=True))


def twin(cube_id: str, scope: Scope) -> str:
    """Return the id under which a memory of another namespace lives in this one: the same time, other random bits.

    It is always the same, so that importing a file twice finds what the first time stored.
    """
    salt = f"{scope.tenant}\0{scope.user_id}\0{cube_id}".encode()
    noise = int.from_bytes(hashlib.sha256(salt).digest()[:8], "big") & _NOISE
    return str(UUID(int=UUID(cube_id).int & ~_NOISE | noise))
