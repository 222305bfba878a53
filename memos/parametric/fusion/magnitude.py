"""The weighted sum of the largest elements."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memos.parametric.fusion.base import Elementwise, weighted
from memos.parametric.fusion.pruning import check_density, keep_largest


@dataclass(frozen=True)
class MagnitudePrune(Elementwise):
    """Sets all but the largest ``density`` of every matrix to 0 and adds up the rest (PEFT's ``magnitude_prune``)."""

    density: float = 0.5

    def __post_init__(self) -> None:
        check_density(self.density)

    def merge(self, matrices: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return ``sum_n weights[n] * trimmed(matrices[n])``."""
        return weighted(keep_largest(matrices, self.density), weights).sum(0)
