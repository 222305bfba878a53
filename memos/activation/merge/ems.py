"""EMS: evict, then merge, with budgets by head (Li et al. 2024, arXiv:2412.08521). Needs all queries and the tail's.

A token's score is the larger of its attention from all rows and from the last ones, each relative to what a row of its
age could give: global and local importance. Heads of a layer share its budget: the highest scores of all of them are
kept, half of an even share at least. Of the others, the better half is merged into the most similar kept key, if that
is similar enough, and the rest is dropped (the paper's zero class).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memos.activation.kv import KVBlock
from memos.activation.merge.d2o import most_similar
from memos.activation.merge.fold import NOBODY, fold, gathered
from memos.activation.seen import Need
from memos.activation.select.base import Policy, Pruned, protect, seen_of, tail_attention, window_of
from memos.activation.select.budgets import best, uniform
from memos.activation.select.snapkv import pooled


@dataclass(frozen=True)
class EMS(Policy):
    """``window`` last rows are local; keys are merged from a cosine of ``similarity`` on."""

    needs = frozenset({Need.MASS, Need.TAIL})

    window: int = 32
    similarity: float = 0.6

    def prune(self, kv: KVBlock) -> Pruned:
        """Return what is kept, with what is like it merged in."""
        scores = self._scores(kv)
        kept = torch.stack([_shared(layer, each) for layer, each in zip(scores, uniform(kv, self.ratio), strict=True)])
        folded = [
            fold(layer, *self._assign(layer[0].float(), mine, score))
            for layer, mine, score in zip(kv.data, kept, scores, strict=True)
        ]
        return gathered(kept, kv.data, folded)

    def _scores(self, kv: KVBlock) -> torch.Tensor:
        window = window_of(kv, self.ratio, self.window)
        rows = torch.arange(kv.tokens, 0, -1)
        everywhere = seen_of(kv, "mass")[1] / rows
        lately = torch.stack([weights.mean((1, 2)) for weights in tail_attention(kv, window)])
        return protect(pooled(torch.maximum(everywhere, lately), 5), window)

    def _assign(
        self, keys: torch.Tensor, kept: torch.Tensor, scores: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        similarity, owners = most_similar(keys, kept)
        rest = scores.masked_fill(kept, -torch.inf)
        better = best(rest, (~kept).sum(-1) // 2)
        merged = better & (similarity >= self.similarity)
        return torch.where(kept | merged, owners, NOBODY), torch.ones(kept.shape)


def _shared(scores: torch.Tensor, budgets: torch.Tensor) -> torch.Tensor:
    """Return the best of all heads ``[heads, tokens]`` together, at least half an even share of each."""
    floor = best(scores, budgets // 2)
    rest = scores.masked_fill(floor, -torch.inf).flatten()
    return floor | best(rest, budgets.sum() - floor.sum()).view(scores.shape)
