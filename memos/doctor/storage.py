"""Checks of the database and the disk as a whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from memos.doctor.report import Finding, error, megabytes, ok, warning
from memos.embedding.base import Embedder
from memos.store.database import Database
from memos.store.embedder_table import EmbedderRow
from memos.store.revision import HEAD, KNOWN

LITTLE_SPACE = 1 << 30
NO_SPACE = 64 << 20


def schema(revision: str | None) -> Finding:
    """Judge the revision a database is at."""
    if revision == HEAD:
        return ok("schema", f"revision {HEAD}, the newest")
    if revision is None:
        return warning("schema", "the database has no tables yet; opening the store makes them")
    if revision in KNOWN:
        return warning("schema", f"revision {revision}; opening the store brings it to {HEAD}")
    return error(
        "schema",
        f"revision {revision} was written by a newer version of agent-memos, this one knows up to {HEAD}; "
        f"upgrade the package",
    )


def integrity(database: Database) -> Iterator[Finding]:
    """Let SQLite look for damaged pages and rows without a parent; PostgreSQL looks after itself."""
    if not database.is_sqlite:
        return
    with database.read() as connection:
        damage = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check(10)")]
        strays = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    if damage == ["ok"]:
        yield ok("integrity", "SQLite finds no damage")
    else:
        yield error(
            "integrity",
            f"SQLite finds damage: {damage[0]}; export what can be read, or restore a backup",
        )
    if strays:
        tables = ", ".join(sorted({str(row[0]) for row in strays}))
        yield error(
            "foreign keys",
            f"{len(strays)} rows in {tables} belong to nothing; export the store and import it into a new one",
        )
    else:
        yield ok("foreign keys", "every row belongs to something")


def embedder(serving: EmbedderRow | None, configured: Embedder) -> Finding:
    """Compare the embedder of the stored vectors with the configured one."""
    if serving is None:
        return ok("embedder", "no vectors yet; the first memory settles the embedder")
    if serving.identity == configured.identity:
        return ok("embedder", f"{serving.identity}, {serving.dimension} elements")
    return error(
        "embedder",
        f"the store was embedded by {serving.identity}, but {configured.identity} is configured; set MEMOS_EMBEDDER to "
        f"the first again, or run `memos reindex --embedder NAME` to change over",
    )


def sizes(home: Path) -> dict[str, int]:
    """Return the bytes in a data directory, by part; ``log`` is what is not yet merged into the database."""
    parts = {"database": "memos.db", "log": "memos.db-wal", "index": "chroma", "kv": "kv", "adapters": "adapters"}
    return {name: _bytes(home / part) for name, part in parts.items()}


def free_bytes(home: Path) -> int | None:
    """Return the free space where a data directory is or would be, ``None`` if that cannot be told."""
    place = home
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return None


def disk(used: int, free: int | None) -> Finding:
    """Judge the free space."""
    if free is None:
        return warning("disk", "the free space cannot be told")
    message = f"the store takes {megabytes(used)}, {megabytes(free)} are free"
    if free < NO_SPACE:
        return error("disk", f"{message}; make room before anything is stored")
    if free < max(LITTLE_SPACE, used):
        return warning("disk", f"{message}; make room soon")
    return ok("disk", message)


def _bytes(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0
