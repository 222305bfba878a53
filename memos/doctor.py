"""Looking at a store: is everything there, does it agree with itself, and if not, what to do.

Nothing is changed. :func:`diagnose` opens what it can of a closed or damaged store; :func:`examine` looks through an
open one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from sqlalchemy import Connection

from memos.config import Settings
from memos.cube import Frozen
from memos.embedding.base import Embedder
from memos.embedding.factory import make_embedder
from memos.errors import MemosError, StoreInUse
from memos.store import embedder_table, namespaces
from memos.store.database import Database, current_revision, translated
from memos.store.embedder_table import EmbedderRow
from memos.store.health import Health
from memos.store.lock import DirectoryLock
from memos.store.namespaces import Namespace
from memos.store.revision import HEAD, KNOWN
from memos.store.vector_index import VectorIndex

LITTLE_SPACE = 1 << 30
NO_SPACE = 64 << 20
_NAMED = 5

Progress = Callable[[int, int], None]


class Status(StrEnum):
    """How bad a finding is. Only an error needs somebody to act."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(Frozen):
    """One thing that was looked at; the message says what to do about it."""

    name: str
    status: Status
    message: str


class NamespaceHealth(Frozen):
    """The counts of one namespace. ``indexed`` is the size of its collection, ``None`` if it has none or was not asked.

    ``index_lag`` counts write transactions, ``missing_vectors`` versions without a vector of the serving embedder,
    ``orphans`` rows that belong to nothing.
    """

    tenant: str
    user_id: str
    memories: int
    counted: int
    indexed: int | None = None
    index_lag: int = 0
    missing_vectors: int = 0
    orphans: int = 0


class DoctorReport(Frozen):
    """All findings, the counts behind them, and sizes in bytes."""

    home: str
    findings: tuple[Finding, ...]
    namespaces: tuple[NamespaceHealth, ...] = ()
    sizes: dict[str, int] = {}
    free_bytes: int | None = None

    @property
    def healthy(self) -> bool:
        """Whether nothing needs somebody to act."""
        return all(finding.status is not Status.ERROR for finding in self.findings)


def diagnose(settings: Settings, progress: Progress | None = None) -> DoctorReport:
    """Look at a store that this process has not opened."""
    home = settings.home.expanduser()
    embedded_index = settings.chroma_url is None
    if settings.database_url is None and not (home / "memos.db").exists():
        nothing = _ok("store", f"nothing is stored in {home} yet; the first `memos store` begins it")
        return _report(settings, [nothing])
    lock = None
    held = _ok("lock", "no process has the store open")
    if home.exists() and (settings.database_url is None or embedded_index):
        try:
            lock = DirectoryLock(home)
        except StoreInUse as error:
            held = _warning("lock", f"{error.message}; its index was not looked at")
        except MemosError as error:
            held = _error("lock", error.message)
    database = Database(settings.database_url or f"sqlite:///{home / 'memos.db'}", migrate=False)
    index = VectorIndex(home / "chroma", settings.chroma_url)
    try:
        alone = lock is not None or not embedded_index
        examined = examine(
            settings, database, index if alone else None, make_embedder(settings), progress=progress
        )
    finally:
        index.close()
        database.close()
        if lock is not None:
            lock.release()
    return examined.model_copy(update={"findings": (held, *examined.findings)})


def examine(
    settings: Settings,
    database: Database,
    index: VectorIndex | None,
    embedder: Embedder,
    *,
    progress: Progress | None = None,
) -> DoctorReport:
    """Look through an open store; without ``index``, leave the vector index out."""
    findings: list[Finding] = []
    spaces: list[NamespaceHealth] = []
    with _noting(findings, "schema"):
        revision = _revision(database)
        findings.append(_schema(revision))
        if revision == HEAD:
            findings.extend(_integrity(database))
            serving = _serving(database)
            with _noting(findings, "embedder"):
                findings.append(_embedder(serving, embedder))
            spaces = list(_namespaces(database, index, serving, progress or _silent))
            findings.extend(_judged(spaces))
            with _noting(findings, "index"):
                findings.extend(_index(database, index, spaces))
    return _report(settings, findings, spaces)


# ---------------------------------------------------------------- the store as a whole


def _revision(database: Database) -> str | None:
    with translated():
        return current_revision(database.engine)


def _schema(revision: str | None) -> Finding:
    if revision == HEAD:
        return _ok("schema", f"revision {HEAD}, the newest")
    if revision is None:
        return _warning("schema", "the database has no tables yet; opening the store makes them")
    if revision in KNOWN:
        return _warning("schema", f"revision {revision}; opening the store brings it to {HEAD}")
    return _error(
        "schema",
        f"revision {revision} was written by a newer version of agent-memos, this one knows up to {HEAD}; upgrade the "
        f"package",
    )


def _integrity(database: Database) -> Iterator[Finding]:
    if not database.is_sqlite:
        return
    with database.read() as connection:
        broken = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check(10)")]
        strays = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    if broken == ["ok"]:
        yield _ok("integrity", "SQLite finds no damage")
    else:
        yield _error(
            "integrity",
            f"SQLite finds damage ({broken[0]}); export what can be read and restore a backup",
        )
    if not strays:
        yield _ok("foreign keys", "every row belongs to something")
    else:
        tables = ", ".join(sorted({str(row[0]) for row in strays}))
        yield _error(
            "foreign keys",
            f"{len(strays)} rows of {tables} belong to nothing; export the store and import it into a new one",
        )


def _serving(database: Database) -> EmbedderRow | None:
    with database.read() as connection:
        return embedder_table.active(connection)


def _embedder(serving: EmbedderRow | None, configured: Embedder) -> Finding:
    if serving is None:
        return _ok("embedder", "no vectors yet; the first memory settles the embedder")
    if serving.identity == configured.identity:
        return _ok("embedder", f"{serving.identity}, {serving.dimension} elements")
    return _error(
        "embedder",
        f"the store was embedded by {serving.identity}, but {configured.identity} is configured; set MEMOS_EMBEDDER to "
        f"the first again, or run `memos reindex --embedder NAME` to change over",
    )


# ---------------------------------------------------------------- namespace by namespace


def _namespaces(
    database: Database,
    index: VectorIndex | None,
    serving: EmbedderRow | None,
    progress: Progress,
) -> Iterator[NamespaceHealth]:
    with database.read() as connection:
        spaces = list(namespaces.every(connection))
    for done, space in enumerate(spaces, 1):
        with database.read() as connection:
            health = _namespace(connection, namespaces.read(connection, space.id), serving)
        if index is not None and space.collection is not None:
            size = index.size(space.collection) if index.exists(space.collection) else 0
            health = health.model_copy(update={"indexed": size})
        yield health
        progress(done, len(spaces))


def _namespace(
    connection: Connection, space: Namespace, serving: EmbedderRow | None
) -> NamespaceHealth:
    rows = Health(connection, space.id)
    return NamespaceHealth(
        tenant=space.tenant,
        user_id=space.user_id,
        memories=space.memories,
        counted=rows.memories(),
        index_lag=space.revision - space.indexed_revision if space.collection else 0,
        missing_vectors=rows.unembedded(serving.id) if serving else 0,
        orphans=rows.orphans() + rows.headless(),
    )
