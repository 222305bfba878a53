"""A backup is of one moment, whoever writes meanwhile; a killed one, or a killed restore, leaves nothing half."""

from __future__ import annotations

import json
import os
import random
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memos.backup.source import Source
from memos.cube import Scope
from memos.engine import MemoryOS

SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
ANN = Scope(user_id="ann")
BOB = Scope(tenant="other", user_id="bob")
WRITTEN = Scope(user_id="written")
Opener = Callable[..., MemoryOS]


@pytest.fixture(scope="module", params=["memories", pytest.param("everything", marks=pytest.mark.soak)])
def nursery(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A process to fork workers from; ``kept`` says what is in the stores they work on."""
    here = Path(__file__).parent
    kind = runpy.run_path(str(here.parent / "durability" / "conftest.py"))["Nursery"]
    command = [sys.executable, str(here / "worker.py"), *(["--torch"] if request.param == "everything" else [])]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        made = kind(process)
        made.kept = request.param
        yield made


@pytest.fixture
def home(nursery: Any, request: pytest.FixtureRequest, reopened: Opener, tmp_path: Path) -> Path:
    """A closed store to work on."""
    if nursery.kept == "everything":
        return Path(request.getfixturevalue("full"))
    with reopened(tmp_path / "data") as engine:
        for scope in (ANN, BOB):
            engine.store_many(scope, [{"text": f"{scope.user_id} wrote line {number}"} for number in range(200)])
    return tmp_path / "data"


def test_backup_while_writers_write(full: Path, reopened: Opener, tmp_path: Path) -> None:
    """Each batch is in it whole or not at all, and each link of the pairs that are written has both its ends."""
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            number += 1
            cubes = engine.store_many(WRITTEN, [{"text": f"batch {number} item {item}"} for item in range(5)])
            engine.update(WRITTEN.tenant, cubes[0].id, text=f"batch {number} item 0 again")
            engine.forget(WRITTEN.tenant, cubes[1].id)

    with reopened(full) as engine:
        writer = threading.Thread(target=write)
        writer.start()
        made = [engine.backup(tmp_path / f"b{number}.tar") for number in range(8 if SOAK else 3)]
        done.set()
        writer.join()
    assert made[-1].memories > made[0].memories
    for report in made:
        check_batches(Path(report.path))
    with reopened(tmp_path / "new") as engine:
        engine.restore(Path(made[-1].path))
        assert engine.doctor().healthy


def check_batches(path: Path) -> None:
    manifest = Source(path, 0).verify()
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, file in Source(path, 0).files(manifest):
        if name.endswith(".jsonl"):
            for table, row in map(json.loads, file.read().splitlines()):
                rows.setdefault(table, []).append(row)
    ids = {row["id"] for row in rows["cubes"]}
    assert {row["cube_id"] for row in rows["versions"]} <= ids
    texts = [row["text"].split() for row in rows["versions"] if row["text"].startswith("batch") and row["version"] == 1]
    numbers = [int(words[1]) for words in texts]
    assert {numbers.count(number) for number in numbers} <= {4, 5}
    said = {row["user_id"]: row for row in (space.said for space in manifest.namespaces)}
    for space in manifest.namespaces:
        assert said[space.user_id]["memories"] == space.rows["versions"] - updates(rows, space.user_id, said)


def updates(rows: dict[str, list[dict[str, Any]]], user_id: str, said: dict[str, Any]) -> int:
    """How many later versions a user's memories have."""
    later = [row for row in rows["versions"] if row["version"] > 1]
    written = [row for row in later if row["text"].startswith("batch")]
    return len(written) if user_id == WRITTEN.user_id else 1


def test_killed_backup(nursery: Any, home: Path, reopened: Opener, tmp_path: Path) -> None:
    """What has its name is whole, and the next one to a killed one's place leaves nothing else there."""
    for number in range(60 if SOAK else 3):
        folder, name = tmp_path / str(number), ("k", "k.tar.zst")[number % 2]
        folder.mkdir()
        nursery.round(home, number, random.uniform(0.1, 0.5), path=str(folder / name), what="backup")
        made = [path for path in folder.iterdir() if not path.name.startswith(".")]
        for path in made:
            assert Source(path, 1 << 30).verify().namespaces
        with reopened(home) as engine:
            engine.backup(folder / f"{len(made)}-{name}")
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_killed_restore(
    nursery: Any, home: Path, reopened: Opener, all_rows: Callable[..., Any], tmp_path: Path
) -> None:
    """The store has all of it or nothing, and no file without its cube once it is opened again."""
    path = tmp_path / "b.tar.zst"
    with reopened(home) as engine:
        whole = without_revisions(all_rows(engine))
        files = len(files_of(home))
        engine.backup(path)
    for number in range(60 if SOAK else 3):
        new = tmp_path / f"new-{number}"
        reopened(new).close()
        nursery.round(new, number, random.uniform(0.05, 0.5), path=str(path), what="restore")
        with reopened(new) as engine:
            found = without_revisions(all_rows(engine))
            assert found in ({}, whole)
            assert len(files_of(new)) == (files if found else 0)
            assert engine.doctor().healthy


def files_of(home: Path) -> list[Path]:
    return [path for pattern in ("*.safetensors", "*.tmp") for path in home.rglob(pattern)]


def without_revisions(rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """A namespace that is replaced goes on counting its revisions."""
    return {name: [{**row, "revision": 0} for row in found] for name, found in rows.items()}
