"""Where the SQL truth of a store is."""

from __future__ import annotations

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from memos.config import Settings
from memos.errors import InvalidInput


def database_url(settings: Settings) -> str:
    """Return the SQLAlchemy URL of the given PostgreSQL, or of the embedded SQLite, which only one process may use.

    Raises :class:`InvalidInput`.
    """
    given = settings.database_url
    if given is None:
        return f"sqlite:///{settings.home.expanduser() / 'memos.db'}"
    try:
        driver = make_url(given).drivername
    except (ArgumentError, ValueError):
        driver = ""
    if driver not in {"postgresql", "postgresql+psycopg"}:
        raise InvalidInput(
            "database_url must look like postgresql+psycopg://USER:PASSWORD@HOST/NAME; "
            "leave it unset for the embedded store"
        )
    return given
