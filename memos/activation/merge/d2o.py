"""D2O: layers by the variance of their attention, and merging above a threshold (Wan et al. 2024, arXiv:2406.13035).

Needs all queries. A dropped token goes into the kept one with the most similar key, if their cosine is at least the
mean of all such cosines (the paper's moving threshold at its first step, which a prompt is); weights are
``e ** cosine`` over those of all that go into one, and ``e`` for the token itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from memos.activation.kv import KVBlock
from memos.activation.merge.base import Merger
from memos.activation.merge.fold import NOBODY
from memos.activation.seen import Need
from memos.activation.select.base import SINKS, seen_of
from memos.activation.select.budgets import by_layer
from memos.activation.select.h2o import H2O


@dataclass(frozen=True)
class D2OSelector(H2O):
    """As H2O, with more for layers whose attention varies less between tokens."""

    needs = frozenset({Need.MASS})

    def budgets(self, kv: KVBlock) -> torch.Tensor:
        """Return budgets in proportion to ``e ** -variance`` of the layers' attention, relative to the largest."""
        variance = seen_of(kv, "mass")[1].mean(1).var(-1, correction=0)
        return by_layer(kv, self.ratio, torch.exp(-variance / variance.max().clamp_min(1e-12)), 8)


class Similar(Merger):
    """Merges into the most similar key, or not at all."""

    def assign(self, kv: KVBlock, index: int, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return owners, nobody for what is like nothing that is kept, and weights."""
        similarity, owners = most_similar(kv.data[index, 0].float(), kept)
        threshold = similarity[~kept].mean() if (~kept).any() else 1.0
        owners = torch.where(kept | (similarity >= threshold), owners, NOBODY)
        return owners, torch.where(kept, 1.0, similarity).exp()


def most_similar(keys: torch.Tensor, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each token the cosine and place of the kept key most like its own, no sink; itself, where it is kept.

    ``keys`` is float32 ``[heads, tokens, head_dim]``, ``kept`` bool ``[heads, tokens]``.
    """
    unit = normalize(keys, dim=-1)
    cosines = (unit @ unit.transpose(1, 2)).masked_fill(~kept.unsqueeze(1), -2.0)
    cosines[..., :SINKS] = -2.0
    cosines.diagonal(dim1=1, dim2=2).masked_fill_(kept, 2.0)
    found = cosines.max(-1)
    return found.values.clamp(-1, 1), found.indices
