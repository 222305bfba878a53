"""The data directory: one process at a time, and a typed error for everything that can be wrong with it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memos.config import Settings
from memos.cube import Scope
from memos.engine import MemoryOS
from memos.errors import InvalidInput, MemosError, StoreError, StoreInUse, StoreTooNew
from memos.store.revision import HEAD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memos.embedding.base import Embedder

SCOPE = Scope(user_id="u")

#: Opens the store named by its argument, says so (or which error came), and holds it until its input ends.
OPEN = """
import sys
from pathlib import Path
from memos.config import Settings
from memos.engine import MemoryOS
from memos.errors import MemosError
try:
    with MemoryOS(Settings(home=Path(sys.argv[1]))):
        print("opened", flush=True)
        sys.stdin.read()
except MemosError as error:
    print(type(error).__name__, error.message, flush=True)
"""


def opener(home: Path, prefix: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start a process that opens a store."""
    command = [*prefix, sys.executable, "-c", OPEN, str(home)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def outcome(home: Path, prefix: Sequence[str] = ()) -> str:
    """Open a store in another process and close it again; return what it said."""
    output, errors = opener(home, prefix).communicate("")
    assert errors == ""
    return output.strip()


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of every file of a store, but for its lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "memos.lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def store(data_folder: Path, embedder: Embedder) -> Path:
    """A closed store with a hundred memories."""
    with MemoryOS(Settings(home=data_folder), embedder) as engine:
        engine.store_many(SCOPE, [{"text": f"fact {number} about cats"} for number in range(100)])
    return data_folder


# ------------------------------------------------------------ one process at a time


def test_other_process_is_told_who_has_it(engine: MemoryOS) -> None:
    answer = outcome(engine.settings.home)
    assert answer.startswith(f"StoreInUse the store in {engine.settings.home} is open in process")
    assert f"process {os.getpid()};" in answer


def test_same_process_twice(engine: MemoryOS, embedder: Embedder) -> None:
    with pytest.raises(StoreInUse) as caught:
        MemoryOS(engine.settings, embedder)
    assert caught.value.extra == {"process": str(os.getpid())}
    assert engine.store_many(SCOPE, [{"text": "the first one goes on"}])


def test_path_spelled_differently(engine: MemoryOS, tmp_path: Path, embedder: Embedder) -> None:
    link = tmp_path / "link"
    link.symlink_to(engine.settings.home)
    with pytest.raises(StoreInUse):
        MemoryOS(Settings(home=link), embedder)


def test_opens_after_close(store: Path, embedder: Embedder) -> None:
    for _ in range(2):
        with MemoryOS(Settings(home=store), embedder) as engine:
            assert engine.stats(SCOPE).memories == 100
    assert outcome(store) == "opened"


def test_opens_after_holder_is_killed(store: Path, embedder: Embedder) -> None:
    with opener(store) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "opened\n"
        with pytest.raises(StoreInUse, match=f"process {holder.pid};"):
            MemoryOS(Settings(home=store), embedder)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with MemoryOS(Settings(home=store), embedder) as engine:
            assert engine.stats(SCOPE).memories == 100


# ------------------------------------------------------------ a newer version's store


def set_revision(store: Path, revision: str) -> None:
    with closing(sqlite3.connect(store / "memos.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))


def test_newer_schema_is_refused_untouched(store: Path, embedder: Embedder) -> None:
    set_revision(store, "9999")
    before = tree(store)
    with pytest.raises(StoreTooNew, match=r"'9999'.*[Uu]pgrade the package"):
        MemoryOS(Settings(home=store), embedder)
    assert tree(store) == before
    set_revision(store, HEAD)
    with MemoryOS(Settings(home=store), embedder) as engine:  # the refusal left no lock behind
        assert engine.stats(SCOPE).memories == 100


# ------------------------------------------------------------ unusable places


def powerless() -> list[str]:
    """Command prefix that takes root's privilege to write everywhere."""
    return ["setpriv", "--bounding-set", "-all"] if os.geteuid() == 0 else []


@pytest.mark.skipif(shutil.which("setpriv") is None and os.geteuid() == 0, reason="is root for good")
@pytest.mark.parametrize("kind", ["empty", "store"])
def test_read_only_directory(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue("store") if kind == "store" else tmp_path / "empty"
    folder.mkdir(exist_ok=True)
    for path in (*folder.iterdir(), folder):
        path.chmod(0o444 if path.is_file() else 0o555)
    answer = outcome(folder, powerless())
    folder.chmod(0o755)
    assert answer.startswith("StoreUnavailable")
    assert str(folder) in answer


@pytest.mark.parametrize("place", ["file", "file/below", "with-directory"])
def test_no_place_for_a_store(place: str, tmp_path: Path, embedder: Embedder) -> None:
    (tmp_path / "file").write_text("not a directory")
    (tmp_path / "with-directory" / "memos.db").mkdir(parents=True)
    with pytest.raises(StoreError) as caught:
        MemoryOS(Settings(home=tmp_path / place), embedder)
    assert type(caught.value).__name__ == "StoreUnavailable"


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://root@localhost/db", "oracle://h/db", "sqlite+no://"])
def test_database_url_of_another_kind(url: str, tmp_path: Path, embedder: Embedder) -> None:
    with pytest.raises(InvalidInput, match="database_url"):
        MemoryOS(Settings(home=tmp_path, database_url=url), embedder)


# ------------------------------------------------------------ damaged files


def test_not_a_database(data_folder: Path, embedder: Embedder) -> None:
    data_folder.mkdir()
    (data_folder / "memos.db").write_bytes(b"This is a letter, not a database.\n" * 400)
    with pytest.raises(StoreError, match="damaged, or not a database"):
        MemoryOS(Settings(home=data_folder), embedder)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.9])
def test_cut_off_database(share: float, store: Path, embedder: Embedder) -> None:
    path = store / "memos.db"
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))
    with pytest.raises(MemosError), MemoryOS(Settings(home=store), embedder) as engine:
        read(engine)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # a damaged vector may hold NaN
def test_damaged_pages(store: Path, embedder: Embedder) -> None:
    """Garbage in any page gives a typed error or an answer without it, never anything else."""
    path, dice = store / "memos.db", random.Random(7)
    sound = path.read_bytes()
    for page in range(0, len(sound) // 4_096, 3):
        with path.open("r+b") as file:
            file.write(sound)
            file.seek(page * 4_096 + dice.choice([0, 100, 2_000]))
            file.write(dice.randbytes(600))
        try:
            with MemoryOS(Settings(home=store), embedder) as engine:
                read(engine)
        except MemosError:
            continue


def read(engine: MemoryOS) -> None:
    """Read everything, in every way."""
    for cube in engine.list(SCOPE):
        engine.history(SCOPE.tenant, cube.id)
    engine.recall(SCOPE, "fact 7 about cats")
    engine.stats(SCOPE)
