"""Bounded pools: blocking work leaves the event loop, and no queue grows without end."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from memos.errors import Overloaded, TimedOut

T = TypeVar("T")


class Pool:
    """Threads for one kind of work, and how much of it may wait for them."""

    def __init__(self, name: str, threads: int, waiting: int, timeout_s: float) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=f"memos-{name}")
        self.name = name
        self._room = threads + waiting
        self._timeout_s = timeout_s
        self.taken = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns, computed in a thread.

        Raises :class:`Overloaded` at once where too much waits, and :class:`TimedOut` where it takes too long: what
        has begun is then carried to its end all the same.
        """
        if self.taken >= self._room:
            raise Overloaded(f"too many requests wait for the {self.name} pool; try again in a moment")
        self.taken += 1
        future = asyncio.get_running_loop().run_in_executor(self._executor, contextvars.copy_context().run, work)
        future.add_done_callback(self._leave)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(future)
        except TimeoutError as error:
            raise TimedOut(
                f"no answer within {self._timeout_s:g} s; a write may still be carried out: repeat it with the same "
                "Idempotency-Key"
            ) from error

    def close(self) -> None:
        """Wait for the work under way; what has not begun is dropped."""
        self._executor.shutdown(cancel_futures=True)

    def _leave(self, future: asyncio.Future[T]) -> None:
        self.taken -= 1
        if not future.cancelled():
            future.exception()  # read it, or asyncio complains where nobody waits any more
