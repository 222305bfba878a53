"""Storing the turns of a chat once they were answered."""

from __future__ import annotations

from typing import Any

import structlog

from memos.errors import MemosError
from memos.wire import Wire
from memos_api.completions.request import Turn

logger = structlog.stdlib.get_logger("memos_api.chat")


def keep(wire: Wire, turn: Turn, whose: dict[str, Any]) -> None:
    """Store a question and its answer; what hinders that is told in the answer, which is given all the same."""
    try:
        cubes = wire.call("store_many", {"items": turn.items, **whose, "idempotency_key": None})
    except MemosError as error:
        logger.warning("the turns of a chat were not stored", code=error.code)
        turn.problem = error.problem()
    else:
        turn.stored = [cube["id"] for cube in cubes]
