"""A process that is killed while notes wait: the next one writes them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from memos.config import Settings
from memos.cube import Scope, State
from memos.embedding.base import Embedder
from memos.engine import MemoryOS

COUNT = 40
STORE = f"""
import os, runpy, signal, sys
from pathlib import Path
from memos.config import Settings
from memos.cube import Scope
from memos.engine import MemoryOS
embedder = runpy.run_path(sys.argv[2])["HashEmbedder"]()
engine = MemoryOS(Settings(home=Path(sys.argv[1]), notes="offline"), embedder)
for number in range({COUNT}):
    engine.store_many(Scope(), [{{"text": f"Ann planted tree number {{number}} behind the old mill of Tolvik"}}])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_notes_are_written_by_the_next_process(data_folder: Path, embedder: Embedder) -> None:
    command = [sys.executable, "-c", STORE, str(data_folder), str(Path(__file__).parents[1] / "conftest.py")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    with MemoryOS(Settings(home=data_folder, notes="offline"), embedder) as engine:
        deadline = time.monotonic() + 60
        while engine.stats(Scope()).waiting and time.monotonic() < deadline:
            time.sleep(0.02)
        stats = engine.stats(Scope())
        assert (stats.memories + stats.merged, stats.waiting) == (COUNT, 0)
        for cube in engine.list(Scope()):
            assert (cube.state, cube.provenance.scribe) == (State.ACTIVATED, "offline")
            assert [one.version for one in engine.history("default", cube.id)] == list(range(1, cube.version + 1))
