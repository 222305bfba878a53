"""The embedded transport: the engine in this process. The only module here that imports it, and only when used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memos_sdk.errors import NotInstalled, from_problem


class EmbeddedTransport:
    """Opens the engine on a data directory and calls it directly."""

    def __init__(self, path: str | Path | None = None, embedder: Any = None) -> None:
        try:
            from memos.errors import MemosError
            from memos.wire import open_embedded
        except ImportError as error:
            raise NotInstalled("embedded use needs the engine: pip install agent-memos, or give a URL") from error
        self._failure = MemosError
        try:
            self._wire = open_embedded(path, embedder)
        except MemosError as error:
            raise from_problem(error.problem()) from error

    def call(self, operation: str, payload: dict[str, Any]) -> Any:
        """Run one operation of the engine."""
        try:
            return self._wire.call(operation, payload)
        except self._failure as error:
            raise from_problem(error.problem()) from error

    def close(self) -> None:
        """Close the engine."""
        self._wire.close()
