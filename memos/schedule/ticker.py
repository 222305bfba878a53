"""A light timer: what has to be done now and then, in one thread of this process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from memos.errors import StoreError

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
        """Finish what is under way and end the thread; it may never have been started."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            for function in self._functions:
                try:
                    function()
                except StoreError as error:  # it is tried again at the next turn
                    logger.warning("%s will be tried again in %.0f s: %s", self._thread.name, self._every_s, error)
            self._stopping.wait(self._every_s)
