"""RazorAttention: whole caches for the heads that retrieve (Tang et al. 2024, arXiv:2407.15891).

Needs to know which heads copy, found on random tokens that repeat: those whose attention goes to the same token before
(echo) or the one after it (induction). All others keep the sinks, the latest tokens, and one compensation token, the
mean of everything they dropped, weighted by its number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memos.activation.kv import KVBlock
from memos.activation.merge.fold import fold, gathered
from memos.activation.seen import Need
from memos.activation.select.base import SINKS, Policy, Pruned, seen_of
from memos.activation.select.budgets import apportioned, best, total


@dataclass(frozen=True)
class RazorAttention(Policy):
    """``heads``: the share of heads that keep all; fewer, where those would need over three quarters of the budget."""

    needs = frozenset({Need.COPYING})

    heads: float = 0.15

    def prune(self, kv: KVBlock) -> Pruned:
        """Return whole caches, and short ones with a compensation token."""
        budgets = self._budgets(kv, seen_of(kv, "copying")[1])
        places = torch.arange(float(kv.tokens))
        places[:SINKS] = torch.inf
        kept = best(places.expand(*budgets.shape, -1), budgets - 1)
        owners = torch.where(kept, torch.arange(kv.tokens), (~kept).long().argmax(-1, keepdim=True))
        folded = [fold(layer, own, torch.ones(own.shape)) for layer, own in zip(kv.data, owners, strict=True)]
        return gathered(owners == torch.arange(kv.tokens), kv.data, folded)

    def _budgets(self, kv: KVBlock, copying: torch.Tensor) -> torch.Tensor:
        """Return the budgets of all heads ``[layers, heads]``, of which a compensation token takes one."""
        amount, heads = total(kv, self.ratio), copying.numel()
        whole = min(round(self.heads * heads), int(0.75 * amount / kv.tokens))
        chosen = best(copying.flatten(), torch.tensor(whole))
        budgets = torch.full((heads,), kv.tokens)
        others = heads - whole
        budgets[~chosen] = apportioned(torch.ones(others), amount - whole * kv.tokens, 1, kv.tokens)
        return budgets.view(copying.shape)
