"""DARE: drop elements at random and rescale the rest (arXiv:2311.03099)."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field

import torch

from memos.errors import InvalidInput
from memos.parametric.fusion.base import Elementwise, weighted
from memos.parametric.fusion.pruning import check_density, drop_randomly
from memos.parametric.fusion.ties import elected_mean


@dataclass
class DareLinear(Elementwise):
    """Keeps each element by chance ``density``, divides it by that, and adds up.

    The same ``seed`` drops the same elements: those that PEFT drops after ``torch.manual_seed(seed)``.
    """

    density: float = 0.5
    seed: int = 0
    _random: torch.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_density(self.density)
        if not 0 <= operator.index(self.seed) < 1 << 63:
            raise InvalidInput(f"seed is {self.seed!r}; a whole number from 0 to 2^63 - 1 is needed")
        self._random = torch.Generator().manual_seed(self.seed)

    def merge(self, matrices: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return ``sum_n weights[n] * dropped(matrices[n])``; the next call drops others."""
        return self._dropped(matrices, weights).sum(0)

    def _dropped(self, matrices: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return weighted(drop_randomly(matrices, self.density, self._random), weights)


@dataclass
class DareTies(DareLinear):
    """Drops in the same way, then takes the mean of what has the sign of the sum, as TIES does."""

    def merge(self, matrices: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the elected mean of ``weights[n] * dropped(matrices[n])``; the next call drops others."""
        return elected_mean(self._dropped(matrices, weights))
