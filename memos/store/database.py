"""Engine, transactions and migrations for SQLite and PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from memos.errors import StoreError, StoreFull, StoreTooNew, StoreUnavailable
from memos.store.revision import HEAD, KNOWN

WRITE = "memos_write"
#: What SQLite's commit waits for: the disk, or nothing.
FULL, NORMAL = "FULL", "NORMAL"
BUSY_TIMEOUT_MS = 10_000
LEASE_POLL_S = 0.02
#: SQLSTATE 53100 disk_full; SQLite's SQLITE_FULL and the write errors a full or capped file system gives.
FULL_MARKS = (
    "database or disk is full",
    "53100",
    "No space left on device",
    "could not extend file",
)
#: What reading a damaged page comes to where SQLite does not notice; callers' own values were checked before.
UNREADABLE = (UnicodeDecodeError, JSONDecodeError, OverflowError, ValidationError)
#: What SQLite says where it cannot tell why a file may not grow: a quota, a size limit, a failing disk.
WRITE_REFUSED = frozenset({"SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE"})


class Database:
    """One SQL database: ``read()`` and ``write()`` transactions, migrated to the present schema on opening.

    SQLite runs in WAL mode with ``synchronous=FULL`` (an acknowledged write survives power loss) and
    ``secure_delete`` (forgotten text is overwritten, not just unlinked).
    """

    def __init__(self, url: str, *, migrate: bool = True) -> None:
        self.url = make_url(url)
        self.engine = _create(url)
        snapshot = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        self._reader = self.engine.execution_options(**snapshot)
        self._writers = {
            lasting: self.engine.execution_options(**{WRITE: FULL if lasting else NORMAL}) for lasting in (True, False)
        }
        self._turn = threading.Lock()
        self._unscrubbed = False
        if not migrate:
            return
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            with translated():
                upgrade(self.engine)
            on_failure.pop_all()

    @property
    def is_sqlite(self) -> bool:
        """Whether this is the embedded database."""
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a consistent snapshot for reading."""
        with translated(), self._reader.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, *, lasting: bool = True) -> Iterator[Connection]:
        """Open a write transaction: committed when the block ends, rolled back on any error.

        One that need not be ``lasting`` does not wait for the disk where it can do without (SQLite): it outlives the
        process, but a power cut may take it back.
        """
        with translated(), self._in_turn(), self._writers[lasting].connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Let this process's writers queue: SQLite itself lets them poll, and some starve for seconds."""
        if not self.is_sqlite:
            yield
            return
        if not self._turn.acquire(timeout=BUSY_TIMEOUT_MS / 1000):
            raise StoreUnavailable("the store is busy: another write has not ended; try again")
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def lease(self, name: str, wait_s: float = 0.0) -> Iterator[bool]:
        """Yield whether this process alone may do what ``name`` stands for, until the block ends.

        Another process that holds the lease is waited for up to ``wait_s`` seconds.
        PostgreSQL keeps the lease as an advisory lock of the session; the embedded store has one process anyway.
        """
        if self.is_sqlite:
            yield True
            return
        with (
            translated(),
            self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        ):
            granted = _granted(connection, name, time.monotonic() + wait_s)
            try:
                yield granted
            finally:
                if granted:
                    connection.execute(text("SELECT pg_advisory_unlock(hashtext(:name))"), {"name": name})

    def ping(self) -> None:
        """Raise :class:`StoreUnavailable` unless the database answers."""
        with translated(), self.engine.connect() as connection:
            connection.scalar(text("SELECT 1"))

    def scrub(self) -> bool:
        """Empty the write-ahead log so that forgotten text is on no page of any file (SQLite; elsewhere a no-op).

        Returns whether it is empty: a reader that does not end keeps it as it is.
        """
        if not self.is_sqlite:
            return True
        with (
            translated(),
            self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        ):
            self._unscrubbed = bool(connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0])
        return not self._unscrubbed

    def scrub_again(self) -> None:
        """Do so once more if a reader kept the last time from being of use."""
        if self._unscrubbed:
            self.scrub()

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def compact(path: Path) -> None:
    """Rewrite a SQLite file that nothing has open, without what deletions left on pages that are free now."""
    engine = create_engine(f"sqlite:///{path}")
    try:
        with translated(), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM")
    finally:
        engine.dispose()


def _granted(connection: Connection, name: str, deadline: float) -> bool:
    statement = text("SELECT pg_try_advisory_lock(hashtext(:name))")
    while not connection.scalar(statement, {"name": name}):
        if time.monotonic() >= deadline:
            return False
        time.sleep(LEASE_POLL_S)
    return True


@contextmanager
def translated() -> Iterator[None]:
    """Turn driver errors of a lost, full or damaged database into this project's errors."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise _translate(error) from error
    except DatabaseError as error:
        if type(error) is not DatabaseError:  # a mistake in a statement, not in the file
            raise
        raise _damaged(error.orig) from error
    except PoolTimeout as error:
        raise StoreUnavailable("the store is busy: every connection is in use; try again") from error
    except UNREADABLE as error:
        raise _damaged(error) from error


def _damaged(cause: object) -> StoreError:
    return StoreError(f"the database file is damaged, or not a database ({cause}); put a backup in its place")


def _translate(error: DBAPIError) -> StoreFull | StoreUnavailable:
    message = str(error.orig)
    if getattr(error.orig, "sqlite_errorname", "") in WRITE_REFUSED:
        return StoreFull(
            "the store may not grow (a quota, a limit on file sizes or a failing disk); nothing of this write was kept"
        )
    code = getattr(error.orig, "sqlstate", None) or ""
    if any(mark in message or mark == code for mark in FULL_MARKS):
        return StoreFull("no space left in the store; nothing of this write was kept. Free some space and repeat it.")
    return StoreUnavailable(f"the database does not answer: {message.strip()}")


def _create(url: str) -> Engine:
    backend = make_url(url).get_backend_name()
    if backend == "sqlite":
        engine = create_engine(
            url,
            connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
            hide_parameters=True,  # or a driver's message would show memories
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    return create_engine(url, pool_pre_ping=True, hide_parameters=True)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy's begin event issues BEGIN, so that writers lock at once
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    waits_for = connection.get_execution_options().get(WRITE)
    if waits_for is None:
        connection.exec_driver_sql("BEGIN")
        return
    if connection.info.get(WRITE, FULL) != waits_for:  # which cannot be changed within a transaction
        connection.exec_driver_sql(f"PRAGMA synchronous={waits_for}")
        connection.info[WRITE] = waits_for
    connection.exec_driver_sql("BEGIN IMMEDIATE")


# ---------------------------------------------------------------- migrations


def migrations_folder() -> Path:
    """Return the Alembic folder: inside the wheel, or at the root of a checkout."""
    package = Path(__file__).resolve().parent.parent
    packaged = package / "_migrations"
    return packaged if packaged.is_dir() else package.parent / "migrations"


def upgrade(engine: Engine) -> None:
    """Bring the schema to the newest revision; refuse one written by a newer version of this package."""
    current = current_revision(engine)
    if current == HEAD:
        return
    if current is not None and current not in KNOWN:
        raise StoreTooNew(
            f"this store has schema {current!r}, written by a newer version of agent-memos; "
            f"this version knows up to {HEAD!r}. Upgrade the package; nothing was changed."
        )
    _upgrade(engine)


def current_revision(engine: Engine) -> str | None:
    """Return the schema revision a database is at, ``None`` for an empty one."""
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        return None if revision is None else str(revision)


def _upgrade(engine: Engine) -> None:
    from alembic import command  # only a new or old store pays for this import
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    with engine.connect().execution_options(**{WRITE: FULL}) as connection, connection.begin():
        if engine.dialect.name == "postgresql":  # two servers may start at once
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('memos-migrations'))")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
