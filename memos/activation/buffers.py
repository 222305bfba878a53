"""Memory that caches are read into, reused so that its page faults are paid once."""

from __future__ import annotations

import mmap
import threading
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

PAGE = mmap.PAGESIZE
#: How much unused memory a pool keeps.
SPARE_BYTES = 256 << 20
_HUGE = 2 << 20


def scratch(size: int, phase: int = 0) -> Bytes:
    """Return ``size`` uninitialised bytes whose address is ``phase`` modulo the page size.

    The kernel copies file pages fastest to addresses that are aligned to pages as the file is.
    """
    room = np.empty(size + PAGE, np.uint8)
    skip = (phase - room.ctypes.data) % PAGE
    return room[skip : skip + size]


class BufferPool:
    """Hands out memory; what nobody holds any more, no tensor and no view, is handed out again."""

    def __init__(self, spare_bytes: int = SPARE_BYTES) -> None:
        self._limit = spare_bytes
        self._spare: list[mmap.mmap] = []
        # Reentrant: a buffer may die, and come back, while this very thread holds the lock.
        self._lock = threading.RLock()

    @property
    def spare_bytes(self) -> int:
        """The unused memory held."""
        with self._lock:
            return sum(map(len, self._spare))

    def take(self, size: int, phase: int = 0) -> Bytes:
        """Return ``size`` bytes at an address that is ``phase`` modulo the page size. Raises ``MemoryError``."""
        region = self._reused(size + phase) or _mapped(size + phase)
        buffer: NDArray[Any] = np.frombuffer(region, np.uint8, size, phase)
        weakref.finalize(buffer, self._give_back, region).atexit = False
        return buffer

    def _reused(self, size: int) -> mmap.mmap | None:
        with self._lock:
            fitting = [region for region in self._spare if size <= len(region) <= 2 * size + _HUGE]
            best = min(fitting, key=len, default=None)
            if best is not None:
                self._spare.remove(best)
            return best

    def _give_back(self, region: mmap.mmap) -> None:
        with self._lock:
            if self.spare_bytes + len(region) <= self._limit:
                self._spare.append(region)


def _mapped(size: int) -> mmap.mmap:
    try:
        region = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError, ValueError) as error:
        raise MemoryError(f"no {size} bytes of memory") from error
    if size >= _HUGE:
        region.madvise(mmap.MADV_HUGEPAGE)
    return region
