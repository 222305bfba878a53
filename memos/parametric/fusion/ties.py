"""TIES: trim, elect a sign, merge what agrees with it (arXiv:2306.01708)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memos.parametric.fusion.base import Elementwise, weighted
from memos.parametric.fusion.pruning import check_density, keep_largest

#: A sum this small beside its terms is rounding: it counts as 0.
_NOTHING = 1e-6


@dataclass(frozen=True)
class Ties(Elementwise):
    """Keeps the largest ``density`` of every matrix, then takes :func:`elected_mean`.

    The order of adapters does not matter. The result is a mean, not a sum: weigh more to count more (the paper's
    lambda).
    """

    density: float = 0.5

    def __post_init__(self) -> None:
        check_density(self.density)

    def merge(self, matrices: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the elected mean of ``weights[n] * trimmed(matrices[n])``."""
        return elected_mean(weighted(keep_largest(matrices, self.density), weights))


def elected_mean(values: torch.Tensor) -> torch.Tensor:
    """Return, element by element, the mean of those of ``[n, ...]`` that have the sign of their sum; else 0.

    The paper's sections 3.2 and 3.3, on weighted values. PEFT elects before it weighs, so that an adapter of ten times
    the scaling has the same vote and one of negative weight votes for what it takes away; for equal positive weights
    and scalings both are the same. A sum of 0 elects plus, as there.
    """
    total = values.sum(0)
    elected = torch.where(total >= -_NOTHING * values.abs().sum(0), 1.0, -1.0)
    agreeing = values.sign() == elected
    return (values * agreeing).sum(0) / agreeing.sum(0).clamp(min=1)
