"""A task that tests steer through files, and the processes that run it: ``celery -A probe worker``, or this script.

As a script it runs the in-process executor on the SQLite file named by its argument; each line on its stdin is the
submission of some job.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memos.config import Settings
from memos.cube import Scope
from memos.errors import StoreUnavailable
from memos.schedule.executor import Executor
from memos.schedule.task import Report
from memos.store.database import Database


def probe(scope: Scope, payload: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Write a line at the start and at the end of the work, which lasts until the file ``until`` is there.

    The first ``failures`` runs fail for a reason that may pass.
    """
    log, name = Path(payload["log"]), payload["name"]
    begun = f"begin {name}"
    _write(log, begun)
    if log.read_text().splitlines().count(begun) <= payload.get("failures", 0):
        raise StoreUnavailable("away for a moment")
    while "until" in payload and not Path(payload["until"]).exists():
        report(0.5)
        time.sleep(0.01)
    _write(log, f"end {name}")
    return {"name": name}


def _write(log: Path, line: str) -> None:
    with log.open("a") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    executor = Executor(Database(f"sqlite:///{sys.argv[1]}"), {"probe": probe})
    executor.start()
    for line in sys.stdin:
        executor.submit(Scope(), line)
    executor.stop()
elif (settings := Settings()).broker_url is not None:
    from memos.engine import MemoryOS
    from memos_workers.tasks import make_worker_app
    from memos_workers.worker import Worker

    def opened() -> MemoryOS:
        """Return an engine that knows the task."""
        engine = MemoryOS(settings)
        engine.tasks["probe"] = probe
        return engine

    app = make_worker_app(settings.broker_url, Worker(opened))
