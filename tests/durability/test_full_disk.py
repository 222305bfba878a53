"""A store without space left: a typed refusal, nothing half-written, and business as usual once there is room."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from memos.cube import Scope
from memos.errors import StoreFull

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memos.engine import MemoryOS

SCOPE = Scope(user_id="u")
BATCH = [{"text": f"item {number} " + "padding " * 100} for number in range(200)]


@pytest.fixture
def page_limit(engine: MemoryOS) -> dict[str, int]:
    """SQLite's own cap: change ``pages`` and the next connection of the engine obeys it."""
    limit = {"pages": 1 << 30}

    def apply(connection: Any, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {limit['pages']}")

    sa.event.listen(engine.database.engine, "connect", apply)
    return limit


def resize(engine: MemoryOS, page_limit: dict[str, int], spare: int) -> None:
    """Let the database grow by ``spare`` pages from now on."""
    with engine.database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    page_limit["pages"] = pages + spare
    engine.database.engine.dispose()


@pytest.mark.parametrize("spare", [0, 1, 10, 40])
def test_full_database(engine: MemoryOS, page_limit: dict[str, int], spare: int) -> None:
    (first,) = engine.store_many(SCOPE, [{"text": "stored while there was room"}])
    resize(engine, page_limit, spare)
    with pytest.raises(StoreFull, match="no space left"):
        engine.store_many(SCOPE, BATCH)
    assert [cube.id for cube in engine.list(SCOPE)] == [first.id]
    assert [hit.id for hit in engine.recall(SCOPE, "item with padding").hits] == [first.id]
    resize(engine, page_limit, 1 << 20)
    assert len(engine.store_many(SCOPE, BATCH)) == len(BATCH)
    assert engine.stats(SCOPE).memories == len(BATCH) + 1


def test_full_database_keeps_what_an_update_would_replace(engine: MemoryOS, page_limit: dict[str, int]) -> None:
    (cube,) = engine.store_many(SCOPE, [{"text": "as it was"}])
    resize(engine, page_limit, 0)
    with pytest.raises(StoreFull):
        engine.update(SCOPE.tenant, cube.id, text="padding " * 5_000)
    assert engine.get(SCOPE.tenant, cube.id) == cube
    assert len(engine.history(SCOPE.tenant, cube.id)) == 1


def test_forgetting_works_when_full(engine: MemoryOS, page_limit: dict[str, int]) -> None:
    """Deletion is how a user makes room, so it must not need much itself."""
    cubes = engine.store_many(SCOPE, BATCH)
    resize(engine, page_limit, 1)
    engine.forget(SCOPE.tenant, cubes[0].id)
    engine.forget_all(SCOPE)
    assert engine.list(SCOPE) == []


# ------------------------------------------------------------ the real thing


def crowd(folder: Path, kind: str, prefix: Sequence[str] = ()) -> dict[str, Any]:
    """Run the script that fills the space up; return its report."""
    script = Path(__file__).with_name("crowded.py")
    command = [*prefix, sys.executable, str(script), str(folder), kind]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def check(report: dict[str, Any]) -> None:
    assert report["stored"] == report["seen"]
    assert report["stored"] >= 20
    assert report["recalled"] > 0
    assert report["after"] == "there is room again"
    assert report["finally"] == report["stored"] + 1


def test_files_may_not_grow(tmp_path: Path) -> None:
    """What a quota or ``ulimit -f`` does: the system refuses the write, not SQLite."""
    report = crowd(tmp_path, "limit")
    assert report["error"] == "StoreFull"
    check(report)


def test_small_file_system(tmp_path: Path) -> None:
    """A file system of 6 MiB, mounted where nobody else sees it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = f'mount -t tmpfs -o size=6m none {folder} && exec "$@"'
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    if os.name != "posix" or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("this system lets nobody mount a file system of their own")
    report = crowd(folder, "disk", prefix)
    assert report["error"] == "StoreFull"
    check(report)
    assert set(report["outcomes"]) <= {"opened", "StoreFull", "StoreUnavailable"}
    assert report["outcomes"][1] != "opened"
