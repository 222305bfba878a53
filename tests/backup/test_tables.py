"""Every table is in a backup, or left out for a reason; every kind of value comes back as it was."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, Boolean, Column, Float, Integer, LargeBinary, Table

from memos.backup.rows import from_lines, from_plain, to_line
from memos.cube import Scope
from memos.errors import BackupRefused
from memos.ids import new_id
from memos.store import embedder_table, namespaces
from memos.store.database import Database
from memos.store.schema import MEMORY_TABLES, metadata
from memos.store.whole import LEFT_OUT, LOGS, NOT_OF_A_NAMESPACE, WholeNamespace, carried_columns, carried_tables

SCOPE = Scope(user_id="u")


def test_every_table_is_carried_or_left_out_for_a_reason() -> None:
    carried = {table.name for table in carried_tables()}
    assert {table.name for table in MEMORY_TABLES} == carried | LEFT_OUT.keys()
    assert metadata.tables.keys() == carried | LEFT_OUT.keys() | NOT_OF_A_NAMESPACE.keys()
    assert carried >= LOGS
    assert all({**LEFT_OUT, **NOT_OF_A_NAMESPACE}.values())


def test_every_column_of_a_namespace_is_carried_but_for_what_is_of_a_store() -> None:
    of_a_store = {"id", "floor_revision", "indexed_revision", "collection", "indexing"}
    assert {column.name for column in namespaces.CARRIED} == set(metadata.tables["namespaces"].c.keys()) - of_a_store


def made_up(column: Column[Any], known: dict[str, dict[str, Any]]) -> Any:
    """Return a value that a column can hold; what refers to another table refers to the row made up for that one."""
    for key in column.foreign_keys:
        table, _, name = key.target_fullname.partition(".")
        return known[table][name]
    kind = column.type
    if isinstance(kind, JSON):
        return {"käse": [1, 2.5, None, {"deep": "\u2028"}]}
    if isinstance(kind, LargeBinary):
        return bytes(range(8))
    if isinstance(kind, Boolean):
        return True
    if isinstance(kind, Integer):
        return (1 << 31) - 1
    if isinstance(kind, Float):
        return 0.1 + 0.2
    return new_id()[: getattr(kind, "length", None) or 36]


def filled(database: Database, identity: str) -> tuple[int, int]:
    """Open a namespace and register an embedder; return their numbers."""
    with database.write() as connection:
        embedder = embedder_table.register(connection, identity, 2)
        return namespaces.open_for_write(connection, SCOPE).id, embedder.id


def test_rows_of_every_table_come_back(tmp_path: Path) -> None:
    one, other = (Database(f"sqlite:///{tmp_path / name}") for name in ("one.db", "other.db"))
    filled(other, "an embedder that is not carried")
    numbers, others = filled(one, "e"), filled(other, "e")
    known: dict[str, dict[str, Any]] = {}
    lines: dict[str, bytes] = {}
    with one.write() as connection:
        whole = WholeNamespace(connection, numbers[0])
        for table in carried_tables():
            known[table.name] = {column.name: made_up(column, known) for column in carried_columns(table)}
            whole.insert(table, [known[table.name]], numbers[1])
            assert list(whole.rows(table, numbers[1])) == [known[table.name]]
            lines[table.name] = b"".join(to_line(table.name, row) for row in whole.rows(table, numbers[1]))
    with other.write() as connection:
        whole = WholeNamespace(connection, others[0])
        for table in carried_tables():
            ((name, row),) = from_lines(io.BytesIO(lines[table.name]))
            whole.insert(table, [from_plain(carried_columns(table), row)], others[1])
            assert (name, list(whole.rows(table, others[1]))) == (table.name, [known[table.name]])
        whole.clear()
        left = {table.name for table in carried_tables() if [*whole.rows(table, others[1])]}
        assert left == LOGS
    for database in (one, other):
        database.close()


CUBES: Table = metadata.tables["cubes"]
VERSIONS: Table = metadata.tables["versions"]


@pytest.mark.parametrize(
    ("table", "row"),
    [
        (CUBES, {"version": "1"}),
        (CUBES, {"version": True}),
        (CUBES, {"version": 1 << 63}),
        (CUBES, {"version": None}),
        (CUBES, {"pinned": 1}),
        (CUBES, {"heat": 1e999}),
        (CUBES, {"source": 3}),
        (CUBES, {"source": "a\0b"}),
        (CUBES, {"namespace_id": 2}),
        (CUBES, {"nothing": 2}),
        (VERSIONS, {"metadata": {"deep": ["\ud800"]}}),
        (metadata.tables["vectors"], {"vector": "no base64!"}),
        (metadata.tables["vectors"], {"vector": 5}),
    ],
)
def test_values_that_a_column_cannot_hold_are_refused(table: Table, row: dict[str, Any]) -> None:
    with pytest.raises(BackupRefused):
        from_plain(carried_columns(table), row)


@pytest.mark.parametrize("line", [b"{", b"[1, {}]", b'["cubes"]', b'["cubes", {"heat": NaN}]', b"[" * 100_000])
def test_lines_that_are_no_rows_are_refused(line: bytes) -> None:
    with pytest.raises(BackupRefused):
        list(from_lines(io.BytesIO(line)))
