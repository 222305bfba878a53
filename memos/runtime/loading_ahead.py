"""Reading adapters and cartridges for requests that wait, in a thread, so that no step waits for a disk."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class LoadingAhead:
    """What is being read, by key. Not safe for several threads, but for the one that reads."""

    def __init__(self) -> None:
        #: Called, in any thread, when something was read, or could not be.
        self.on_read: Callable[[], None] = lambda: None
        self._reader: ThreadPoolExecutor | None = None
        self._reading: dict[Hashable, Future[Any]] = {}

    def ask(self, key: Hashable, load: Callable[[], Any]) -> Future[Any]:
        """Begin to load something, if nobody asked for it yet."""
        if key not in self._reading:
            self._reader = self._reader or ThreadPoolExecutor(1, "memos-adapters")
            self._reading[key] = self._reader.submit(load)
            self._reading[key].add_done_callback(lambda _: self.on_read())
        return self._reading[key]

    @property
    def busy(self) -> bool:
        """Whether anything is still being read."""
        return any(not reading.done() for reading in self._reading.values())

    def keep(self, wanted: Collection[Hashable]) -> None:
        """Let go of everything but what is still wanted."""
        for key in [key for key in self._reading if key not in wanted]:
            self.forget(key)

    def forget(self, key: Hashable) -> None:
        """Let go of something."""
        if key in self._reading:
            self._reading.pop(key).cancel()

    def close(self) -> None:
        """Stop reading."""
        self._reading.clear()
        if self._reader is not None:
            self._reader.shutdown(cancel_futures=True)
