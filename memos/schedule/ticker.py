"""A light timer: what has to be done now and then, in one thread of this process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from memos.errors import StoreError
from memos.schedule.task import Interrupted

logger = logging.getLogger(__name__)


class Ticker:
    """Runs some functions, one after another, when it starts and every ``every_s`` seconds from then on."""

    def __init__(self, functions: Sequence[Callable[[], object]], every_s: float, name: str = "memos-ticker") -> None:
        self._functions = functions
        self._every_s = every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Let what is under way end, at its next call of :meth:`go_on` if it has any, and then the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def go_on(self, _: float = 0.0) -> None:
        """Raise :class:`Interrupted` once it is to end: what takes long calls this now and then."""
        if self._stopping.is_set():
            raise Interrupted

    def _run(self) -> None:
        while not self._stopping.is_set():
            for function in self._functions:
                try:
                    function()
                except Interrupted:
                    return
                except StoreError as error:  # it is tried again at the next turn
                    logger.warning("%s will be tried again in %.0f s: %s", self._thread.name, self._every_s, error)
            self._stopping.wait(self._every_s)
