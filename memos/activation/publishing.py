"""Who publishes files and who removes them: one at a time, in whichever thread and process."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

from memos.activation.room import locked
from memos.errors import StoreUnavailable

_LOCK = "publishing"


class Publishing:
    """Held while a file is published with its row, and while files without a row are removed.

    Between the threads of a process it is a lock, between processes that share the folder a lock on a file in it, which
    the kernel releases however a process ends. So a file that has no row while this is held belongs to nobody.
    Raises :class:`StoreUnavailable` where the folder cannot be used.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._turn = threading.Lock()
        self._held = ExitStack()

    def __enter__(self) -> None:
        with ExitStack() as held:
            held.enter_context(self._turn)
            try:
                self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
                held.enter_context(locked(self._root / _LOCK))
            except OSError as error:
                raise StoreUnavailable(f"files in {self._root} cannot be written: {error.strerror}") from error
            self._held = held.pop_all()

    def __exit__(self, *_: object) -> None:
        self._held.close()
