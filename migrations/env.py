"""Alembic environment: runs on the connection the store hands in, or on MEMOS_DATABASE_URL from the command line."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from memos.config import Settings
from memos.store.database import Database
from memos.store.schema import metadata


def run(connection: Connection) -> None:
    """Run the migrations in the caller's transaction."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        transactional_ddl=True,
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def run_from_command_line() -> None:
    """Connect by the settings, as ``alembic upgrade head`` does."""
    settings = Settings()
    settings.home.mkdir(parents=True, exist_ok=True)
    url = settings.database_url or f"sqlite:///{settings.home / 'memos.db'}"
    database = Database(url, migrate=False)
    try:
        with database.write() as connection:
            run(connection)
    finally:
        database.close()


handed_in = context.config.attributes.get("connection")
if handed_in is not None:
    run(handed_in)
else:
    run_from_command_line()
