"""WindowKV: whole windows of neighbouring tokens, shared by groups of layers (Zuo et al. 2025, arXiv:2503.17922).

Needs the queries of the tail. The paper's classifier, which chooses between the mean of a window and that of its best
half by the kind of task, is left out: no task is known yet, so the mean counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from memos.activation.kv import KVBlock
from memos.activation.seen import Need
from memos.activation.select.base import ScoreSelector, protect, tail_attention, window_of
from memos.activation.select.budgets import by_layer


@dataclass(frozen=True)
class WindowKV(ScoreSelector):
    """Keeps the best windows of ``review`` tokens, chosen at the first of every ``shared`` layers for all their heads.

    Budgets fall evenly from ``1 + decay`` times the mean at the first group to ``1 - decay`` at the last.
    """

    needs = frozenset({Need.TAIL})

    window: int = 32
    review: int = 8
    shared: int = 2
    decay: float = 0.3

    def scores(self, kv: KVBlock) -> torch.Tensor:
        """Return each token's window's mean attention, the same for a group of layers."""
        window = window_of(kv, self.ratio, self.window)
        received = torch.stack([weights.mean((0, 1, 2)) for weights in tail_attention(kv, window)])[:: self.shared]
        windows = pad(received, (0, -kv.tokens % self.review)).unflatten(-1, (-1, self.review)).mean(-1)
        spread = windows.repeat_interleave(self.review, -1)[:, : kv.tokens]
        layers = spread.repeat_interleave(self.shared, 0)[: kv.shape.layers]
        return protect(layers.unsqueeze(1).expand(-1, kv.shape.heads, -1), window)

    def budgets(self, kv: KVBlock) -> torch.Tensor:
        """Return budgets that fall from group to group."""
        groups = -(-kv.shape.layers // self.shared)
        falling = torch.linspace(1 + self.decay, 1 - self.decay, groups).repeat_interleave(self.shared)
        return by_layer(kv, self.ratio, falling[: kv.shape.layers], 1)
