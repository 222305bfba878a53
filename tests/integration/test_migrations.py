"""The migrations produce the schema that the code declares, on both databases, forwards and back."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from memos.clock import now_us
from memos.config import Settings
from memos.cube import Scope
from memos.engine import MemoryOS
from memos.ids import new_id
from memos.store import namespaces
from memos.store.adapters import AdapterRecord, AdapterRepository, AdapterState, Payload
from memos.store.database import Database, current_revision, migrations_folder
from memos.store.revision import HEAD, KNOWN
from memos.store.schema import metadata

if TYPE_CHECKING:
    from memos.embedding.base import Embedder

Shape = dict[str, list[str]]


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


def test_every_revision_file_is_in_line(migrations: Config) -> None:
    files = (migrations_folder() / "versions").glob("*.py")
    assert sorted(file.name[:4] for file in files) == sorted(KNOWN)
    assert ScriptDirectory.from_config(migrations).get_current_head() == HEAD


def test_migrations_match_schema(migrations: Config, database_url: str) -> None:
    """What ``alembic check`` checks: nothing is left for a new migration to do."""
    with closing(Database(database_url)) as database, database.write() as connection:
        migrations.attributes["connection"] = connection
        command.check(migrations)


def test_opening_again_changes_nothing(database_url: str) -> None:
    for _ in range(2):
        with closing(Database(database_url)) as database:
            assert current_revision(database.engine) == HEAD


# ------------------------------------------------------------ down and up


def migrate(config: Config, database: Database, target: str) -> None:
    """Move a database to a revision, up or down."""
    move = command.downgrade if target == "base" else command.upgrade
    with database.write() as connection:
        config.attributes["connection"] = connection
        move(config, target)


def shape(database: Database) -> Shape:
    """Describe every table, column, index and constraint of a database, whatever order they are listed in."""
    inspector = sa.inspect(database.engine)
    found: Shape = {}
    for table in sorted(set(inspector.get_table_names()) - {"alembic_version"}):
        parts: list[Any] = [*inspector.get_columns(table), *map(spelled, inspector.get_indexes(table))]
        parts += [*inspector.get_foreign_keys(table), *inspector.get_unique_constraints(table)]
        parts.append(inspector.get_pk_constraint(table))
        found[table] = sorted(str(sorted(part.items(), key=str)) for part in parts)
    return found


def spelled(index: Any) -> dict[str, Any]:
    """An index with the condition of a partial one as text, not as an object."""
    return {**index, "dialect_options": {name: str(one) for name, one in index.get("dialect_options", {}).items()}}


def test_down_and_up_again(migrations: Config, database_url: str) -> None:
    with closing(Database(database_url)) as database:
        before = shape(database)
        migrate(migrations, database, "base")
        assert shape(database) == {}
        assert current_revision(database.engine) is None
        migrate(migrations, database, "head")
        assert shape(database) == before
        assert current_revision(database.engine) == HEAD


def test_same_as_created_from_the_declarations(migrations: Config, database_url: str) -> None:
    """Server defaults included, which ``alembic check`` does not compare."""
    with closing(Database(database_url)) as database:
        migrated = shape(database)
        migrate(migrations, database, "base")
        with database.write() as connection:
            metadata.create_all(connection)
        assert shape(database) == migrated


def test_down_with_data_and_up_again(migrations: Config, database_url: str, tmp_path: Path, embedder: Embedder) -> None:
    settings = Settings(home=tmp_path)
    if not database_url.startswith("sqlite"):
        settings = Settings(home=tmp_path, database_url=database_url)
    scope = Scope(user_id="u")
    for _ in range(2):
        with MemoryOS(settings, embedder) as engine:
            assert engine.list(scope) == []
            (cube,) = engine.store_many(scope, [{"text": "Ann adopted a cat"}])
            engine.update(scope.tenant, cube.id, text="Ann adopted a dog")
        with closing(Database(database_url)) as database:
            migrate(migrations, database, "base")
            migrate(migrations, database, "head")


def test_adapters_go_with_their_table(
    migrations: Config, database_url: str, tmp_path: Path, embedder: Embedder
) -> None:
    """Down to before adapters: their cubes go, and the memories they were made of stay."""
    settings = Settings(home=tmp_path)
    if not database_url.startswith("sqlite"):
        settings = Settings(home=tmp_path, database_url=database_url)
    scope = Scope(user_id="u")
    with MemoryOS(settings, embedder) as engine:
        (note,) = engine.store_many(scope, [{"text": "Ann adopted a cat"}])
        record = AdapterRecord(
            cube_id=new_id(),
            key="k" * 64,
            digest="d" * 64,
            base="b" * 64,
            payload=Payload.LORA,
            name=None,
            state=AdapterState.PUBLISHED,
            rank=8,
            bytes=1,
            tokens=0,
            gate={"passed": True},
            provenance={"options": {"epochs": 3}},
            created_at=now_us(),
            sources=((note.id, 1),),
        )
        with engine.database.write() as connection:
            namespace = namespaces.open_for_write(connection, scope)
            record = AdapterRepository(connection, namespace.id).insert(record, namespace.revision)
            assert AdapterRepository(connection, namespace.id).all() == [record]
        assert engine.get(scope.tenant, record.cube_id).metadata["gate"] == {"passed": True}
    with closing(Database(database_url)) as database, database.write() as connection:
        migrations.attributes["connection"] = connection
        command.downgrade(migrations, "0002")
        assert connection.scalar(sa.text("SELECT count(*) FROM cubes")) == 1
    with MemoryOS(settings, embedder) as engine:
        assert ([one.id for one in engine.list(scope)], engine.adapters(scope)) == ([note.id], [])


# ------------------------------------------------------------ from the command line


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_command_line(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """``alembic upgrade head`` and ``alembic check``, as CONTRIBUTING tells developers and CI does."""
    environment = {**os.environ, "MEMOS_HOME": str(tmp_path / "home")}
    url = f"sqlite:///{tmp_path / 'home' / 'memos.db'}"
    if kind == "postgresql":
        url = environment["MEMOS_DATABASE_URL"] = request.getfixturevalue("postgres_database")
    root = request.config.rootpath
    for arguments in (["upgrade", "head"], ["check"], ["downgrade", "base"], ["upgrade", "head"]):
        alembic = [sys.executable, "-m", "alembic", *arguments]
        subprocess.run(alembic, cwd=root, env=environment, check=True, capture_output=True)
    with closing(Database(url, migrate=False)) as database:
        assert current_revision(database.engine) == HEAD
