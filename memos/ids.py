"""UUIDv7 identifiers that sort in creation order (RFC 9562 §5.7, method 3: sub-millisecond counter)."""

from __future__ import annotations

import os
import re
import threading
import time
from uuid import UUID

_ID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_lock = threading.Lock()
_last = 0


def new_id() -> str:
    """Return a new UUIDv7; within one process each is greater than the one before.

    48 bits of milliseconds and 12 bits of sub-millisecond clock give a 60-bit tick of about 244 ns, bumped by one
    where the clock has not moved, so that a batch keeps its order; the other 62 bits are random.
    """
    global _last
    nanoseconds = time.time_ns()
    tick = (nanoseconds // 1_000_000 << 12) | (nanoseconds % 1_000_000 * 4096 // 1_000_000)
    with _lock:
        _last = tick = max(tick, _last + 1)
    noise = int.from_bytes(os.urandom(8), "big") & ((1 << 62) - 1)
    return str(UUID(int=(tick >> 12) << 80 | 0x7 << 76 | (tick & 0xFFF) << 64 | 0b10 << 62 | noise))


def is_id(text: object) -> bool:
    """Whether ``text`` is a canonical lower-case UUID, the only form ids are stored in."""
    try:
        return isinstance(text, str) and str(UUID(text)) == text
    except ValueError:
        return False


def ids_in(text: str) -> set[str]:
    """Return every id that a text names."""
    return set(_ID.findall(text))
