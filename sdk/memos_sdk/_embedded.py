"""The embedded transport: the engine in this process. The only module here that imports it, and only when used."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from memos_sdk.errors import MemosError, NotInstalled, from_problem


class EmbeddedTransport:
    """Opens the engine on a data directory and calls it directly."""

    def __init__(self, path: str | Path | None = None, embedder: Any = None) -> None:
        try:
            from memos.errors import MemosError as EngineError
            from memos.wire import open_embedded
        except ImportError as error:
            raise NotInstalled("embedded use needs the engine: pip install agent-memos, or give a URL") from error
        self._failure = EngineError
        try:
            self._wire = open_embedded(path, embedder)
        except EngineError as error:
            raise from_problem(error.problem()) from error

    def call(self, operation: str, payload: dict[str, Any]) -> Any:
        """Run one operation of the engine."""
        try:
            return self._wire.call(operation, payload)
        except self._failure as error:
            raise from_problem(error.problem()) from error

    def stream(self, payload: dict[str, Any]) -> Iterator[Any]:
        """Yield the pieces of a chat's answer as they are decoded in a thread, and last the reply.

        A consumer that stops early ends the chat with its next piece.
        """
        pieces: queue.SimpleQueue[Any] = queue.SimpleQueue()
        left = threading.Event()

        def take(text: str) -> None:
            if left.is_set():
                raise _NobodyReads
            pieces.put(text)

        def work() -> None:
            try:
                pieces.put(self._wire.chat(payload, take).model_dump())
            except self._failure as error:
                pieces.put(from_problem(error.problem()))
            except _NobodyReads:
                return

        thread = threading.Thread(target=work, name="memos-chat", daemon=True)
        thread.start()
        try:
            while isinstance(part := pieces.get(), str):
                yield part
            if isinstance(part, MemosError):
                raise part
            yield part
        finally:
            left.set()
            thread.join()

    def close(self) -> None:
        """Close the engine."""
        self._wire.close()


class AsyncEmbeddedTransport:
    """The same for asyncio: the engine works in threads, the event loop stays free."""

    def __init__(self, path: str | Path | None = None, embedder: Any = None) -> None:
        self._transport = EmbeddedTransport(path, embedder)

    async def call(self, operation: str, payload: dict[str, Any]) -> Any:
        """Run one operation of the engine."""
        return await asyncio.to_thread(self._transport.call, operation, payload)

    async def stream(self, payload: dict[str, Any]) -> AsyncIterator[Any]:
        """Yield the pieces of a chat's answer, and last the reply."""
        parts = self._transport.stream(payload)
        try:
            while (part := await asyncio.to_thread(next, parts, None)) is not None:
                yield part
        finally:
            await asyncio.to_thread(parts.close)  # type: ignore[attr-defined]  # it is a generator

    async def close(self) -> None:
        """Close the engine."""
        await asyncio.to_thread(self._transport.close)


class _NobodyReads(Exception):
    """Whoever read the stream has stopped: raised where the model hands over text, to end the chat."""
