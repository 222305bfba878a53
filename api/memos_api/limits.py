"""How often an API key may ask: a token bucket for each."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from memos.errors import LimitReached

#: Buckets kept; the one not used for longest is full again anyway, unless the rate is very low.
BUCKETS = 10_000


class RateLimit:
    """Buckets of ``burst`` requests that fill up again at ``rate`` per second; 0 is no limit."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, whose: str) -> None:
        """Take a request out of a bucket. Raises :class:`LimitReached` with ``retry_after_s``."""
        if not self._rate:
            return
        now = time.monotonic()
        with self._lock:
            left, then = self._buckets.pop(whose, (self._burst, now))
            left = min(self._burst, left + (now - then) * self._rate)
            granted = left >= 1
            self._buckets[whose] = (left - 1 if granted else left, now)
            if len(self._buckets) > BUCKETS:
                self._buckets.popitem(last=False)
        if not granted:
            wait = round((1 - left) / self._rate, 3)
            raise LimitReached(f"this API key may ask {self._rate:g} times a second; wait {wait} s", retry_after_s=wait)
