"""The seam between client and engine: one call by name, JSON-shaped both ways."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol


class Transport(Protocol):
    """Carries an operation to a store, in this process or over HTTP."""

    def call(self, operation: str, payload: dict[str, Any]) -> Any:
        """Run ``operation``; return plain data. Raises :class:`memos_sdk.errors.MemosError`."""
        ...

    def stream(self, payload: dict[str, Any]) -> Iterator[Any]:
        """Yield the pieces of a chat's answer, and last the reply as a mapping."""
        ...

    def close(self) -> None:
        """Release what the transport holds; closing twice is harmless."""
        ...


class AsyncTransport(Protocol):
    """The same on asyncio."""

    async def call(self, operation: str, payload: dict[str, Any]) -> Any:
        """Run ``operation``; return plain data. Raises :class:`memos_sdk.errors.MemosError`."""
        ...

    def stream(self, payload: dict[str, Any]) -> AsyncIterator[Any]:
        """Yield the pieces of a chat's answer, and last the reply as a mapping."""
        ...

    async def close(self) -> None:
        """Release what the transport holds; closing twice is harmless."""
        ...
