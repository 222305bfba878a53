"""Writing a namespace to a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from sqlalchemy import Row

from memos import __version__
from memos.clock import from_us, now_us
from memos.cube import Scope
from memos.embedding.reindex import Progress
from memos.errors import InvalidInput
from memos.store import namespaces
from memos.store.archive import Archive
from memos.store.database import Database
from memos.transfer.files import replacing
from memos.transfer.record import Header, MemoryRecord
from memos.transfer.rows import record_of

PAGE = 500
_OWN_FILES = ("memos.db", "memos.db-wal", "memos.db-shm", "memos.lock", "chroma", "kv", "adapters", "training")


class Exporter:
    """Writes memories as JSON Lines: a header, then one memory with its history and links per line."""

    def __init__(self, database: Database, home: Path) -> None:
        self._database = database
        self._home = home

    def export(self, scope: Scope, path: Path, progress: Progress) -> int:
        """Write what the scope holds, as of one moment, in the place of ``path``; return the number of memories."""
        check_target(path, self._home)
        with replacing(path) as file, self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            archive = Archive(connection, namespace.id) if namespace else None
            total = archive.count(scope) if archive else 0
            file.write(_line(_header(scope, total)))
            if archive is None:
                return 0
            for done, record in enumerate(_records(archive, scope), 1):
                file.write(_line(record))
                if done % PAGE == 0 or done == total:
                    progress(done, total)
        return total


def _records(archive: Archive, scope: Scope) -> Iterator[MemoryRecord]:
    after = None
    while cubes := archive.page(scope, after, PAGE):
        ids = [cube.id for cube in cubes]
        versions = _grouped(archive.versions(ids), "cube_id")
        links = _grouped(archive.links(ids), "source_id")
        sources = _grouped(archive.sources(ids), "cube_id")
        helped = _grouped(archive.influences(ids), "cube_id")
        for cube in cubes:
            beside = (rows.get(cube.id, ()) for rows in (links, sources, helped))
            yield record_of(cube, versions[cube.id], *beside)
        after = ids[-1]


def _grouped(rows: Sequence[Row[Any]], key: str) -> dict[str, list[Row[Any]]]:
    return {name: list(group) for name, group in groupby(rows, lambda row: getattr(row, key))}


def _header(scope: Scope, memories: int) -> Header:
    return Header(
        created_at=from_us(now_us()),
        written_by=f"agent-memos {__version__}",
        user_id=scope.user_id,
        agent_id=scope.agent_id,
        run_id=scope.run_id,
        memories=memories,
    )


def _line(record: Header | MemoryRecord) -> bytes:
    return record.model_dump_json().encode() + b"\n"


def check_target(path: Path, home: Path) -> None:
    """Refuse to write over the store itself."""
    target = path.resolve()
    folder = home.expanduser().resolve()
    for name in _OWN_FILES:
        if target.is_relative_to(folder / name):
            raise InvalidInput(f"{path} belongs to the store itself; name another file")
