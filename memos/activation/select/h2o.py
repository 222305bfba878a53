"""H2O: heavy hitters and recent tokens (Zhang et al. 2023, arXiv:2306.14048). Needs all queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memos.activation.kv import KVBlock
from memos.activation.seen import Need
from memos.activation.select.base import ScoreSelector, protect, seen_of


@dataclass(frozen=True)
class H2O(ScoreSelector):
    """Keeps the tokens that received most attention from all rows, and, as ``recent`` of the budget, the latest."""

    needs = frozenset({Need.MASS})

    recent: float = 0.5

    def scores(self, kv: KVBlock) -> torch.Tensor:
        """Return the attention received."""
        return protect(seen_of(kv, "mass")[1], int(self.recent * self.ratio * kv.tokens))
