"""The items of a session as memories: in order, exactly as they were given, and found by recall."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from memos_sdk import Memory
from memos_sdk.errors import NotFound
from memos_sdk.integrations._values import every, memory_of, readable, value_of
from memos_sdk.types import MemCube


class SessionLog:
    """What was said in one session, under one agent's name; all calls may come from several threads."""

    def __init__(self, memory: Memory, session_id: str, user_id: str | None, agent_id: str) -> None:
        self._memory = memory
        self._user_id = user_id
        self._scope = {"user_id": user_id, "agent_id": agent_id, "run_id": session_id}

    def items(self, limit: int | None = None) -> list[Any]:
        """Return the latest ``limit`` items, all by default, oldest first."""
        cubes = self._cubes()
        first = 0 if limit is None else max(0, len(cubes) - max(0, limit))
        return [value_of(cube) for cube in cubes[first:]]

    def add(self, items: Iterable[tuple[Any, str | None, str | None]]) -> None:
        """Add items, all or none; each is a JSON value, who speaks, and what is said if it is in words."""
        memories = [_memory(*item) for item in items]
        if memories:
            self._memory.store_many(memories, **self._scope)

    def pop(self) -> Any | None:
        """Remove the latest item and return it, ``None`` when there is none; nobody else gets the same one."""
        while cubes := self._cubes():
            try:
                self._memory.forget(cubes[-1].id, user_id=self._user_id)
            except NotFound:  # somebody else was faster
                continue
            return value_of(cubes[-1])
        return None

    def clear(self) -> None:
        """Delete everything that is stored under the session."""
        self._memory.forget_all(**self._scope)

    def _cubes(self) -> list[MemCube]:
        return [cube for cube in every(self._memory, **self._scope) if "item" in cube.metadata]


def _memory(value: Any, role: str | None, text: str | None) -> dict[str, Any]:
    # Two memories with the same metadata may be merged into one; "yes" twice are two items, so each gets an id.
    metadata = {"item": str(uuid.uuid4()), **({"role": role} if role else {})}
    memory = memory_of(value, readable(text), metadata)
    return {**memory, "infer": memory["text"] == text}  # a note about JSON would be noise
