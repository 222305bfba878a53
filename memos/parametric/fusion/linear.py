"""The weighted sum of factors."""

from __future__ import annotations

import torch

from memos.parametric.fusion.base import Elementwise, weighted


class Linear(Elementwise):
    """``(sum sqrt(w_i) up_i) @ (sum sqrt(w_i) down_i)``: the rank stays, the cross terms come in (PEFT's ``linear``).

    With unlike adapters the cross terms are noise larger than the sum itself. With like ones they add up in its
    direction: the mean of ``n`` equal adapters (weights ``1 / n``) comes out ``n`` times too strong. ``svd`` at the
    same rank has neither fault.
    """

    def merge(self, matrices: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return ``sum_n weights[n] * matrices[n]``."""
        return weighted(matrices, weights).sum(0)
