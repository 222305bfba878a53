"""Room for thousands of adapters: whether one more fits is told from a tally, however many there are."""

from __future__ import annotations

import contextlib
from pathlib import Path

from memos.activation.room import Room, Words

WORDS = Words("an adapter", "adapters", "MEMOS_ADAPTER_BYTES", "memos adapters rm")
_TALLY = "tally"


class TalliedRoom(Room):
    """A room whose files are counted only when it seems to be full.

    The tally, in ``root/tally``, is never less than what the files take: every reservation adds to it, nothing takes
    away from it but a count. One that is lost, or older than the files, is put right when a process opens the store.
    """

    def __init__(self, root: Path, cap_bytes: int, free_floor_bytes: int) -> None:
        super().__init__(root, cap_bytes, free_floor_bytes, WORDS)

    def recount(self) -> None:
        """Count the files."""
        with self.locked():
            self._write(self.used())

    def _admit(self, size: int) -> None:
        tally = self._read()
        if tally is None or tally + size > self._cap:
            tally = self.used()
        self._check(size, tally)
        self._write(tally + size)

    def _read(self) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            return int((self.root / _TALLY).read_text("ascii"))
        return None

    def _write(self, tally: int) -> None:
        (self.root / _TALLY).write_text(str(tally), "ascii")
