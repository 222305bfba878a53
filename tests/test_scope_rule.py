"""No statement on a memory table without a namespace: the rule, checked on the syntax trees of the packages.

Outside ``memos/store`` nobody names a memory table or builds SQL. Inside, statements on memory tables come from
:class:`memos.store.scoped.ScopedRepository`'s own methods alone. ``RULES`` says which module may do what.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from memos.store.schema import MEMORY_TABLES, metadata

PACKAGES = ("memos", "api", "workers")
TABLES = frozenset(table.name for table in MEMORY_TABLES)
BUILDERS = frozenset({"select", "insert", "update", "delete", "text", "literal_column"})
RAW = frozenset({"exec_driver_sql"})
#: These define the tables, open the database, and hold the repository's base class with two look-ups.
SCHEMA, DATABASE, SCOPED = (
    "memos/store/schema.py",
    "memos/store/database.py",
    "memos/store/scoped.py",
)
STORE = "memos/store/"
BASES = frozenset({"ScopedRepository", "LineageRepository"})
#: Look-ups by id alone, beside the base class: whose a cube, job or hold is, which ids are not free, which jobs wait,
#: which is to be run next, where something is due to go, which files are needed, what a write under a key came to (of
#: one tenant), how much there is. They return no content.
LOOKUPS = frozenset(
    {
        "home_of",
        "taken",
        "locate_job",
        "queued_jobs",
        "locate_hold",
        "due",
        "unfinished_jobs",
        "_turns",
        "next_job",
        "due_jobs",
        "next_due",
        "abandoned_jobs",
        "old_jobs",
        "activation_keys",
        "adapter_keys",
        "answer_of",
        "totals",
    }
)


def violations(path: str, source: str) -> list[str]:
    """What a module at ``path`` (relative to the repository) does against the rule."""
    if path in (SCHEMA, DATABASE):
        return []
    tree = ast.parse(source)
    found = [*raw_sql(tree)]
    if path == SCOPED:
        return found + [
            f"line {node.lineno}: {node.name} uses a memory table"
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and node.name not in LOOKUPS and names_table(node)
        ]
    touches = sorted(imported_tables(tree))
    builds = sorted(BUILDERS & imported_builders(tree))
    if not path.startswith(STORE):
        found += [f"imports memory table {name}" for name in touches]
        found += [f"imports sqlalchemy.{name}" for name in builds]
        return found
    if touches and builds:
        found.append(f"names {', '.join(touches)} and imports sqlalchemy.{', '.join(builds)}")
    found += [*table_methods(tree)]
    if touches:
        found += [*strangers(tree)]
    return found


def imported_tables(tree: ast.AST) -> set[str]:
    """Memory tables a module can name: imported one by one, or with the whole schema module."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "memos.store.schema":
            names = {alias.name for alias in node.names}
            found |= names & TABLES | (TABLES if names & {"*", "metadata", "MEMORY_TABLES"} else set())
        elif isinstance(node, ast.ImportFrom) and node.module == "memos.store":
            found |= TABLES if any(alias.name == "schema" for alias in node.names) else set()
        elif isinstance(node, ast.Import):
            found |= TABLES if any(alias.name == "memos.store.schema" for alias in node.names) else set()
    return found


def imported_builders(tree: ast.AST) -> set[str]:
    """Names of sqlalchemy a module can build statements with; the bare package stands for all of them."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "sqlalchemy":
            names = {alias.name for alias in node.names}
            found |= BUILDERS if names & {"*", "sql"} else names
        elif isinstance(node, ast.Import):
            packages = {alias.name.partition(".")[0] for alias in node.names}
            found |= BUILDERS if "sqlalchemy" in packages else set()
    return found


def raw_sql(tree: ast.AST) -> Iterator[str]:
    """SQL as text, but for pragmas written out in place, and database drivers."""
    pragmas = {
        node.func
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and [ast.unparse(one)[1:8] for one in node.args] == ["PRAGMA "]
        and isinstance(node.args[0], ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in RAW and node not in pragmas:
            yield f"line {node.lineno}: {node.attr}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            if {"sqlite3", "psycopg"} & {(module or "").partition(".")[0] for module in modules}:
                yield f"line {node.lineno}: imports a driver"


def table_methods(tree: ast.AST) -> Iterator[str]:
    """``cubes.select()`` and the like, which bind no namespace."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id in TABLES and node.func.attr in BUILDERS:
                yield f"line {node.lineno}: {owner.id}.{node.func.attr}()"


def strangers(tree: ast.Module) -> Iterator[str]:
    """Classes that use memory tables without being repositories, and functions that execute on them."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and names_table(node) and not BASES & set(map(ast.unparse, node.bases)):
            yield f"line {node.lineno}: {node.name} uses memory tables but is no repository"
        if isinstance(node, ast.FunctionDef) and names_table(node) and executes(node):
            yield f"line {node.lineno}: {node.name} executes outside a repository"


def names_table(node: ast.AST) -> bool:
    names = (one for one in ast.walk(node) if isinstance(one, ast.Name))
    return any(one.id in TABLES and isinstance(one.ctx, ast.Load) for one in names)


def executes(node: ast.AST) -> bool:
    verbs = {"execute", "scalar", "scalars", "stream"}
    return any(isinstance(one, ast.Attribute) and one.attr in verbs for one in ast.walk(node))


# ---------------------------------------------------------------- the rule on the sources


def test_sources_keep_the_rule(repository: Path) -> None:
    found = {}
    for package in PACKAGES:
        for path in sorted((repository / package).rglob("*.py")):
            name = path.relative_to(repository).as_posix()
            if wrong := violations(name, path.read_text()):
                found[name] = wrong
    assert found == {}


def test_sources_are_found(repository: Path) -> None:
    """The rule would hold trivially if the modules it is about moved away."""
    for name in (SCHEMA, DATABASE, SCOPED, "memos/store/cubes.py", "memos/store/records.py"):
        assert (repository / name).is_file()
    assert imported_tables(ast.parse((repository / "memos/store/cubes.py").read_text()))


def test_memory_tables_are_those_with_a_namespace() -> None:
    owned = {table.name for table in metadata.tables.values() if "namespace_id" in table.c}
    assert owned == TABLES


def test_every_memory_table_needs_its_namespace() -> None:
    assert not any(table.c.namespace_id.nullable for table in MEMORY_TABLES)


# ---------------------------------------------------------------- the rule on planted violations

PLANTED = {
    "table outside": ("memos/plaintext/x.py", "from memos.store.schema import cubes"),
    "schema outside": ("memos/engine.py", "from memos.store import schema"),
    "schema module outside": ("api/memos_api/x.py", "import memos.store.schema as s"),
    "metadata outside": ("memos/x.py", "from memos.store.schema import metadata"),
    "table in a function": ("memos/x.py", "def f():\n    from memos.store.schema import links"),
    "select outside": ("memos/plaintext/x.py", "from sqlalchemy import select"),
    "text outside": ("workers/memos_workers/x.py", "from sqlalchemy import Connection, text"),
    "sql outside": ("memos/x.py", "from sqlalchemy.sql import delete"),
    "sqlalchemy outside": ("memos/x.py", "import sqlalchemy as sa\nsa.select(1)"),
    "driver outside": ("memos/x.py", "import sqlite3"),
    "raw outside": ("memos/x.py", "connection.exec_driver_sql('SELECT text FROM versions')"),
    "pragma put together": ("memos/x.py", "connection.exec_driver_sql(f'PRAGMA {x}')"),
    "raw inside": ("memos/store/x.py", "connection.exec_driver_sql('SELECT text FROM versions')"),
    "select inside": (
        "memos/store/x.py",
        "from sqlalchemy import select\nfrom memos.store.schema import cubes\nselect(cubes)",
    ),
    "package inside": (
        "memos/store/x.py",
        "import sqlalchemy\nfrom memos.store.schema import versions\nsqlalchemy.select(versions)",
    ),
    "method of a table": (
        "memos/store/x.py",
        "from memos.store.schema import cubes\ndef f(c):\n    return cubes.delete()",
    ),
    "no repository": (
        "memos/store/x.py",
        "from memos.store.schema import cubes\nclass Reader:\n    def f(self):\n        return cubes.c.id",
    ),
    "wrong base": (
        "memos/store/x.py",
        "from memos.store.schema import cubes\nclass R(Repository):\n    x = cubes.c.id",
    ),
    "function that executes": (
        "memos/store/x.py",
        "from memos.store.schema import cubes\ndef f(c, s):\n    return c.scalar(s.where(cubes.c.id == 1))",
    ),
    "unscoped function beside the base": (
        SCOPED,
        "from sqlalchemy import select\ndef anyone(c):\n    return c.scalar(select(cubes))",
    ),
}
ALLOWED = {
    "connection type": ("memos/plaintext/x.py", "from sqlalchemy import Connection, Row"),
    "directory table": (
        "memos/store/x.py",
        "from sqlalchemy import select\nfrom memos.store.schema import namespaces\nselect(namespaces)",
    ),
    "repository": (
        "memos/store/x.py",
        "from memos.store.schema import cubes\nclass R(ScopedRepository):\n    x = cubes.c.id",
    ),
    "field of the same name": (
        "memos/store/x.py",
        "from memos.store.schema import cubes\nclass Rows:\n    cubes: list",
    ),
    "condition": (
        "memos/store/x.py",
        "from memos.store.schema import cubes\ndef narrow(s, x):\n    return s.where(cubes.c.id == x)",
    ),
    "pragma": ("memos/x.py", "connection.exec_driver_sql('PRAGMA quick_check')"),
    "database": (DATABASE, "from sqlalchemy import text\nc.exec_driver_sql('PRAGMA x')"),
}


@pytest.mark.parametrize(("path", "source"), PLANTED.values(), ids=list(PLANTED))
def test_planted_violation_is_found(path: str, source: str) -> None:
    assert violations(path, source)


@pytest.mark.parametrize(("path", "source"), ALLOWED.values(), ids=list(ALLOWED))
def test_allowed_use_passes(path: str, source: str) -> None:
    assert violations(path, source) == []
