"""Which failures of a job may pass, and how long to wait for that."""

from __future__ import annotations

import random

from memos.errors import EmbedderUnavailable, MemosError, Overloaded, StoreUnavailable, TimedOut

#: What somebody else caused and may mend; what the caller caused fails at once, and again if it were tried again.
MAY_PASS: tuple[type[MemosError], ...] = (StoreUnavailable, EmbedderUnavailable, Overloaded, TimedOut)
FIRST_US, LONGEST_US = 4_000_000, 300_000_000


def delay_us(attempt: int, first_us: int = FIRST_US) -> int:
    """Return the wait after the ``attempt``-th failure (from 1), in microseconds: 4 s, 16 s, 64 s ... 5 min.

    It varies by half, so that what failed together does not come back together.
    """
    wait = min(LONGEST_US, first_us << 2 * (attempt - 1))
    return round(wait * random.uniform(0.5, 1.5))
