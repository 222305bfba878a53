"""The migrations produce the schema that the code declares, on both databases."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from memos.store.database import Database, current_revision, migrations_folder
from memos.store.revision import HEAD, KNOWN

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def migrations() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    return config


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'memos.db'}"
    url: str = request.getfixturevalue("postgres_database")
    return url


def test_known_revisions_are_complete(migrations: Config) -> None:
    newest_first = ScriptDirectory.from_config(migrations).walk_revisions()
    assert [script.revision for script in newest_first] == list(reversed(KNOWN))


def test_migrations_match_schema(migrations: Config, database_url: str) -> None:
    """What ``alembic check`` checks: nothing is left for a new migration to do."""
    with closing(Database(database_url)) as database, database.write() as connection:
        migrations.attributes["connection"] = connection
        command.check(migrations)


def test_opening_again_changes_nothing(database_url: str) -> None:
    for _ in range(2):
        with closing(Database(database_url)) as database:
            assert current_revision(database.engine) == HEAD
