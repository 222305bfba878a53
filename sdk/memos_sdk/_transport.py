"""The seam between client and engine: one call by name, JSON-shaped both ways."""

from __future__ import annotations

from typing import Any, Protocol


class Transport(Protocol):
    """Carries an operation to a store, in this process or over HTTP."""

    def call(self, operation: str, payload: dict[str, Any]) -> Any:
        """Run ``operation``; return plain data. Raises :class:`memos_sdk.errors.MemosError`."""
        ...

    def close(self) -> None:
        """Release what the transport holds; closing twice is harmless."""
        ...
