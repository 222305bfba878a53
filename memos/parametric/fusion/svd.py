"""The best adapter of a chosen rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from memos.parametric.adapter import Factors
from memos.parametric.fusion.base import Fusion, Part
from memos.parametric.fusion.lowrank import Keep, low_rank


@dataclass(frozen=True)
class Svd(Fusion):
    """The sum of the adapters, cut to ``rank``, or to the least rank whose relative error in a module is ``error``.

    Both: whichever is less. Neither: the largest rank of the parts (as PEFT's ``svd``, which forms and decomposes the
    whole weight; this does not and has the same error, see :func:`~memos.parametric.fusion.lowrank.low_rank`).
    """

    rank: int | None = None
    error: float | None = None

    def __post_init__(self) -> None:
        Keep(self.rank, self.error)

    def fuse(self, parts: Sequence[Part]) -> Factors:
        """Return ordered ranks."""
        up = torch.cat([part.weight * part.up for part in parts], dim=1)
        down = torch.cat([part.down for part in parts])
        free = self.rank is None and self.error is None
        return low_rank(up, down, Keep(max(part.rank for part in parts) if free else self.rank, self.error))
