"""KVCrush: proxies for the tokens that are dropped (Jha et al. 2025, arXiv:2503.00022). Needs the tail's queries.

A token is a bit per query head: whether it is among the tokens that this head attends to most. Tokens are put in order
by the Hamming distance of their bits from those of an anchor (all heads' majority), cut into buckets, and one of each
bucket is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memos.activation.kv import KVBlock
from memos.activation.seen import Need
from memos.activation.select.base import Selector, protect, tail_attention, window_of
from memos.activation.select.budgets import best, each
from memos.activation.select.snapkv import pooled


@dataclass(frozen=True)
class KVCrush(Selector):
    """``proxies``: the share of the budget for proxies; the rest is chosen as SnapKV does."""

    needs = frozenset({Need.TAIL})

    proxies: float = 0.25
    window: int = 32

    def select(self, kv: KVBlock) -> torch.Tensor:
        """Return heavy tokens and proxies."""
        budget = each(kv, self.ratio)
        window = window_of(kv, self.ratio, self.window)
        kept = []
        for weights in tail_attention(kv, window):
            received = weights.sum(2)
            heavy = protect(pooled(received.mean(1), 5), window)
            kept.append(self._layer(heavy, received.flatten(0, 1), budget))
        return torch.stack(kept)

    def _layer(self, heavy: torch.Tensor, received: torch.Tensor, budget: int) -> torch.Tensor:
        """Return what a layer keeps by scores ``[heads, tokens]`` and attention ``[query heads, tokens]``."""
        proxies = int(self.proxies * budget)
        kept = best(heavy, torch.full((len(heavy),), budget - proxies))
        bits = best(received, torch.full((len(received),), budget))
        distance = (bits ^ (bits.float().mean(1, keepdim=True) >= 0.5)).sum(0)
        for head in kept:
            rest = torch.nonzero(~head)[:, 0]
            order = rest[torch.argsort(distance[rest], stable=True)]
            head[order[(torch.arange(proxies) * len(order)) // max(proxies, 1)]] = True
        return kept
