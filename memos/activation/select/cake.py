"""CAKE: budgets by how spread and how shifting a layer's attention is (Qin et al. 2025, arXiv:2503.12491).

Needs the queries of the tail. With A the weights of the window's rows on the tokens before it::

    preference = (-sum A log A) ** (1 / tau1) * (sum var_rows A) ** (1 / tau2)
    score = mean_rows A + gamma * var_rows A
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memos.activation.kv import KVBlock
from memos.activation.seen import Need
from memos.activation.select.base import ScoreSelector, protect, tail_attention, window_of
from memos.activation.select.budgets import by_layer
from memos.activation.select.snapkv import pooled


@dataclass(frozen=True)
class Cake(ScoreSelector):
    """Layers get budgets by preference; in them the score decides, pooled over ``kernel`` neighbours."""

    needs = frozenset({Need.TAIL})

    window: int = 32
    kernel: int = 5
    tau1: float = 1.0
    tau2: float = 1.0
    gamma: float = 200.0

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for a kernel without a middle, or exponents without end."""
        if self.kernel % 2 == 0 or not self.tau1 or not self.tau2:
            raise ValueError("kernel is odd, and tau1 and tau2 are above 0")

    def scores(self, kv: KVBlock) -> torch.Tensor:
        """Return mean and variance of the window's attention."""
        window = window_of(kv, self.ratio, self.window)
        found = [
            (weights.mean(2) + self.gamma * weights.var(2, correction=0)).mean(1)
            for weights in tail_attention(kv, window)
        ]
        return protect(pooled(torch.stack(found), self.kernel), window)

    def budgets(self, kv: KVBlock) -> torch.Tensor:
        """Return budgets in proportion to the layers' preference."""
        window = window_of(kv, self.ratio, self.window)
        before = max(kv.tokens - window, 1)
        preferences = [self._preference(weights[..., :before]) for weights in tail_attention(kv, window)]
        return by_layer(kv, self.ratio, torch.stack(preferences), 2 * window)

    def _preference(self, weights: torch.Tensor) -> torch.Tensor:
        entropy = -(weights * weights.clamp_min(1e-12).log()).sum(-1).mean()
        shift = weights.var(2, correction=0).sum(-1).mean()
        preference: torch.Tensor = entropy ** (1 / self.tau1) * shift ** (1 / self.tau2)
        return preference
