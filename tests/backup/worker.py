"""Processes that back a store up, or restore it, until they are killed, in the manner of tests/durability/writer.py."""

from __future__ import annotations

import itertools
import json
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from memos.config import Settings
from memos.engine import MemoryOS

HashEmbedder = runpy.run_path(str(Path(__file__).resolve().parents[1] / "conftest.py"))["HashEmbedder"]


def say(**event: Any) -> None:
    """Write one line, in one call."""
    os.write(sys.stdout.fileno(), json.dumps(event).encode() + b"\n")


def work_until_killed(home: Path, path: Path, what: str) -> None:
    """Do it; on an error say so and wait for the end."""
    try:
        engine = MemoryOS(Settings(home=home, notes="off"), HashEmbedder())
        engine._jobs.stop()
        say(begin=what)
        for number in itertools.count():
            if what == "backup":
                engine.backup(path.with_name(f"{number}-{path.name}"))
            else:
                engine.restore(path, replace=True)
    except Exception:  # noqa: BLE001  # whatever it is, the test must see it
        say(error=traceback.format_exc()[-3_000:])
        signal.pause()


def main() -> None:
    """Fork a worker for every order; say its process id, and when it has ended."""
    if "--torch" in sys.argv:  # once for all workers
        import memos.activation.files
        import memos.parametric.files  # noqa: F401
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            work_until_killed(Path(order["home"]), Path(order["path"]), order["what"])
        say(started=child)
        os.waitpid(child, 0)
        say(ended=child)


if __name__ == "__main__":
    main()
