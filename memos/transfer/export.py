"""Writing a namespace to a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import IO, Any, TypeVar

from sqlalchemy import Row

from memos import __version__
from memos.clock import from_us, now_us
from memos.cube import Scope
from memos.embedding.reindex import Progress
from memos.errors import InvalidInput
from memos.store import namespaces
from memos.store.archive import Archive
from memos.store.database import Database
from memos.store.exports import ExportRepository
from memos.transfer.files import replacing
from memos.transfer.record import Header, MemoryRecord
from memos.transfer.rows import record_of

T = TypeVar("T")
PAGE = 500
_OWN_FILES = ("memos.db", "memos.db-wal", "memos.db-shm", "memos.lock", "chroma", "kv", "adapters", "training")


class Exporter:
    """Writes memories as JSON Lines: a header, then one memory with its history and links per line."""

    def __init__(self, database: Database, home: Path) -> None:
        self._database = database
        self._home = home

    def export(self, scope: Scope, path: Path, progress: Progress, *, kept: bool = True) -> int:
        """Write what the scope holds, as of one moment, in the place of ``path``; return the number of memories.

        The file is on record before it has its name, for the receipts of what is deleted later; unless it is ``kept``
        where it is written, its path is not.
        """
        check_target(path, self._home)
        with replacing(path) as file, self._recorded(scope, path if kept else None) as export:
            export.memories, export.digest = self._write(scope, file, progress)
        return export.memories

    @contextmanager
    def _recorded(self, scope: Scope, path: Path | None) -> Iterator[_Export]:
        """Keep a file on record from before its first memory is read; strike it out if nothing comes of it."""
        export, begun = _Export(), self._change(scope, lambda exports: exports.begin(scope, path))
        try:
            yield export
        except BaseException:
            export.memories = 0
            raise
        finally:
            if begun is None and export.memories:  # the user's first memory came only just now
                begun = self._change(scope, lambda exports: exports.begin(scope, path))
            if begun is not None:
                self._change(scope, partial(_end, begun, export))

    def _change(self, scope: Scope, change: Callable[[ExportRepository], T]) -> T | None:
        with self._database.write() as connection:
            namespace = namespaces.find(connection, scope)
            return None if namespace is None else change(ExportRepository(connection, namespace.id))

    def _write(self, scope: Scope, file: IO[bytes], progress: Progress) -> tuple[int, str]:
        """Write the file; return the number of memories and the digest of what was written."""
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            archive = Archive(connection, namespace.id) if namespace else None
            total, digest = archive.count(scope) if archive else 0, hashlib.sha256()
            for done, line in enumerate(_lines(archive, scope, total)):
                file.write(line)
                digest.update(line)
                if done and (done % PAGE == 0 or done == total):
                    progress(done, total)
        return total, digest.hexdigest()


@dataclass(slots=True)
class _Export:
    """What a file holds once it is written."""

    memories: int = 0
    digest: str = ""


def _end(begun: str, export: _Export, exports: ExportRepository) -> None:
    if export.memories:
        exports.finish(begun, export.memories, export.digest)
    else:
        exports.cancel(begun)


def _lines(archive: Archive | None, scope: Scope, total: int) -> Iterator[bytes]:
    yield _line(_header(scope, total))
    if archive is not None:
        yield from map(_line, _records(archive, scope))


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
