"""PrefixKV: every layer keeps the same share of its attention (Wang et al. 2024, arXiv:2412.03409).

Needs all queries. The paper averages the layers' budgets over some samples beforehand; here each cache has its own. It
adds up the attention a token received; here it is the mean over the rows that could pay any, without which the latest
tokens, which few rows have seen, are dropped first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memos.activation.kv import KVBlock
from memos.activation.seen import Need
from memos.activation.select.base import SINKS, ScoreSelector, protect, seen_of
from memos.activation.select.budgets import by_layer


@dataclass(frozen=True)
class PrefixKV(ScoreSelector):
    """Keeps the tokens that received most attention; of a layer, as many as hold a share that is the same for all."""

    needs = frozenset({Need.MASS})

    def scores(self, kv: KVBlock) -> torch.Tensor:
        """Return the attention received."""
        return protect(_received(kv), 1)

    def budgets(self, kv: KVBlock) -> torch.Tensor:
        """Return how many of its best tokens hold the common share in each layer, found by bisection."""
        masses = _received(kv).mean(1).sort(-1, descending=True).values
        sums = masses.cumsum(-1) / masses.sum(-1, keepdim=True)
        wanted, low, high = self.ratio * kv.tokens, 0.0, 1.0
        for _ in range(40):
            share = (low + high) / 2
            counts = (sums < share).sum(-1).float() + 1
            low, high = (share, high) if float(counts.mean()) < wanted else (low, share)
        counts = (sums < high).sum(-1).float() + 1
        return by_layer(kv, self.ratio, counts, SINKS + 1)


def _received(kv: KVBlock) -> torch.Tensor:
    """Return the mean attention a token received from itself and all after it, ``[layers, heads, tokens]``."""
    return seen_of(kv, "mass")[1] / torch.arange(kv.tokens, 0, -1)
