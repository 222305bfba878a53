"""Fill the space a store may use, from the inside: run by test_full_disk.py, where the space is small.

Usage: crowded.py FOLDER (disk | limit). ``disk``: FOLDER is a small file system; ``limit``: files may not grow.
Prints one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import resource
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from memos.config import Settings
from memos.cube import Scope
from memos.engine import MemoryOS
from memos.errors import MemosError

Embedder = runpy.run_path(str(Path(__file__).resolve().parents[1] / "conftest.py"))["HashEmbedder"]
SCOPE = Scope(user_id="u")
MOST_BATCHES = 2_000
ENOUGH = 4 << 20


def fill_up(engine: MemoryOS) -> tuple[int, MemosError]:
    """Store batches until one is refused; return how many were stored, and the refusal."""
    for number in range(MOST_BATCHES):
        texts = [f"batch {number} item {item} " + "padding " * 200 for item in range(20)]
        try:
            engine.store_many(SCOPE, [{"text": text} for text in texts])
        except MemosError as error:
            return number, error
    raise AssertionError("the space never ran out")


def small_disk(folder: Path) -> Callable[[], None]:
    """Leave 2 MiB on the file system; return what gives the rest back."""
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(ENOUGH))
    return ballast.unlink


def file_limit(_: Path) -> Callable[[], None]:
    """Let no file grow beyond 2 MiB; return what lifts the limit."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, hard))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def open_without_a_byte(folder: Path, existing: Settings) -> list[str]:
    """Use up the last byte, then open the store and a new one; return what came of it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1_000))
    outcomes = [attempt(existing), attempt(Settings(home=folder / "new"))]
    filler.unlink()
    return outcomes


def attempt(settings: Settings) -> str:
    """Open a store and read from it; return "opened" or the name of the error that says why not."""
    try:
        with MemoryOS(settings, Embedder()) as engine:
            engine.list(SCOPE)
    except MemosError as error:
        return type(error).__name__
    return "opened"


def count(engine: MemoryOS) -> int:
    """Count what the store says it holds."""
    return engine.stats(SCOPE).memories


def main() -> None:
    """Fill up, look at what is left, make room, go on."""
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    make_room = (small_disk if kind == "disk" else file_limit)(folder)
    settings = Settings(home=folder / "data")
    with MemoryOS(settings, Embedder()) as engine:
        stored, error = fill_up(engine)
        seen = count(engine)
        recalled = engine.recall(SCOPE, "batch 1 item 3", top_k=3).hits
    outcomes = open_without_a_byte(folder, settings) if kind == "disk" else []
    with MemoryOS(settings, Embedder()) as engine:
        make_room()
        engine.store_many(SCOPE, [{"text": "there is room again"}])
    with MemoryOS(settings, Embedder()) as engine:
        after = engine.recall(SCOPE, "there is room again", top_k=1).hits[0].text
        report = {
            "error": type(error).__name__,
            "message": error.message,
            "stored": stored * 20,
            "seen": seen,
            "recalled": len(recalled),
            "outcomes": outcomes,
            "after": after,
            "finally": count(engine),
        }
    print(json.dumps(report))  # noqa: T201


if __name__ == "__main__":
    main()
