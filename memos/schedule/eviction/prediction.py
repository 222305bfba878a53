"""What an eviction with predictions asks: one bit for every request."""

from __future__ import annotations

from collections.abc import Callable

from memos.schedule.eviction.entry import Entry

#: Called once for every request, with the counters up to date; returns whether the entry may be discarded.
Predictor = Callable[[Entry], bool]
