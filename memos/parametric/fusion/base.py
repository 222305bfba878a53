"""What every way of merging adapters is given, module by module, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from memos.errors import AdapterRefused
from memos.parametric.adapter import Factors


@dataclass(frozen=True, slots=True)
class Part:
    """What one adapter adds to a module, ``weight * up @ down``.

    ``down`` is float32 ``[rank, in]``, ``up`` float32 ``[out, rank]``. ``weight``, not 0, is what the adapter counts
    times its own scaling, as a share of the largest of these in the module: within -1 to 1, so that nothing overflows.
    """

    down: torch.Tensor
    up: torch.Tensor
    weight: float

    @property
    def rank(self) -> int:
        """The number of rank rows."""
        return int(self.down.shape[0])


class Fusion(ABC):
    """A method with its options. It reads tensors and never writes into them."""

    @abstractmethod
    def fuse(self, parts: Sequence[Part]) -> Factors:
        """Return float32 factors for a module; ``parts``, at least one, are in the order of the adapters."""


class Elementwise(Fusion):
    """Merges factors element by element: downs with downs and ups with ups.

    That is PEFT's ``add_weighted_adapter``: downs count ``sign(w) sqrt(|w|)``, ups ``sqrt(|w|)``. The product of two
    sums is not the sum of the products: next to ``w_i up_i @ down_i`` it holds the cross terms
    ``sqrt(|w_i w_j|) up_i @ down_j`` of every pair, which nobody trained, and the result depends on which of its many
    equal factorisations an adapter came in. :class:`~memos.parametric.fusion.delta.OnDelta` has neither fault.
    """

    @abstractmethod
    def merge(self, matrices: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return ``[rows, columns]`` of float32 ``matrices`` ``[n, rows, columns]`` and ``weights`` ``[n]``."""

    def fuse(self, parts: Sequence[Part]) -> Factors:
        """Merge factors. Raises :class:`AdapterRefused` for unequal ranks: their rows have no counterparts."""
        ranks = sorted({part.rank for part in parts})
        if len(ranks) > 1:
            raise AdapterRefused(f"ranks {ranks} in one module; merging element by element needs equal ones, svd none")
        weights = torch.tensor([part.weight for part in parts], dtype=torch.float32)
        roots = weights.abs().sqrt()
        down = self.merge(torch.stack([part.down for part in parts]), weights.sign() * roots)
        return Factors(down, self.merge(torch.stack([part.up for part in parts]), roots))


def weighted(matrices: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return ``weights[n] * matrices[n, rows, columns]``."""
    return matrices * weights.view(-1, 1, 1)
