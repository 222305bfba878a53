"""LazyEviction: tokens come back after a while (Zhang et al. 2025, arXiv:2506.15969). Needs all queries.

Made for decoding, where every W steps the cache is cut to its budget; here the prompt's rows are the steps, and its end
is where it is cut. With ``last`` the latest row that attended to a token and ``gap`` the longest time between two that
did, a token whose ``now - last`` is beyond its gap is not expected any more, and goes first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memos.activation.kv import KVBlock
from memos.activation.seen import Need
from memos.activation.select.base import ScoreSelector, protect, seen_of, window_of


@dataclass(frozen=True)
class LazyEviction(ScoreSelector):
    """Keeps the last ``window`` tokens and those that are most likely to be needed again."""

    needs = frozenset({Need.RECURRENCE})

    window: int = 32

    def scores(self, kv: KVBlock) -> torch.Tensor:
        """Return by how much of its gap a token is waited for, negative; below -1 it is overdue."""
        last, gap = seen_of(kv, "last")[1], seen_of(kv, "gap")[1]
        waited = kv.tokens - last
        return protect(-waited / gap.clamp_min(1), window_of(kv, self.ratio, self.window))
