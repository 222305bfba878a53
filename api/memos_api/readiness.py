"""Which dependency is down, and what that means."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from memos.engine import MemoryOS
from memos.errors import MemosError
from memos_api.service import Service

#: Seconds after which a dependency that is silent counts as down.
PATIENCE_S = 5.0
OK = "ok"


async def look(service: Service) -> dict[str, Any]:
    """Ask every dependency at once; return the status of the whole and what each of them said."""
    checks: dict[str, Callable[[MemoryOS], None]] = {"database": _database}
    if service.engine.index.configured:
        checks["vector_index"] = _vector_index
    said = await asyncio.gather(*(_asked(service, check) for check in checks.values()))
    found = dict(zip(checks, said, strict=True))
    if service.stopping.is_set():
        found["service"] = "it is shutting down"
    return {"status": _status(found), "checks": found}


def _status(found: dict[str, str]) -> str:
    """Recall scans where the vector index is down: slower, as right as ever. Without the database nothing is known."""
    if found["database"] != OK or "service" in found:
        return "down"
    return "ready" if all(said == OK for said in found.values()) else "degraded"


async def _asked(service: Service, check: Callable[[MemoryOS], None]) -> str:
    try:
        await asyncio.wait_for(service.probes.run(lambda: check(service.engine)), PATIENCE_S)
    except MemosError as error:
        return error.message
    except TimeoutError:
        return f"no answer within {PATIENCE_S:g} s"
    return OK


def _database(engine: MemoryOS) -> None:
    engine.database.ping()


def _vector_index(engine: MemoryOS) -> None:
    engine.index.names()
