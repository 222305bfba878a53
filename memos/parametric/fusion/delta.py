"""Merging what adapters add to a weight rather than their factors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from memos.parametric.adapter import Factors
from memos.parametric.fusion.base import Elementwise, Fusion, Part
from memos.parametric.fusion.lowrank import Keep, leading


@dataclass(frozen=True)
class OnDelta(Fusion):
    """Merges ``up @ down`` of all parts element by element and cuts the result to ``rank`` (PEFT's ``*_svd``).

    No cross terms, no equal ranks, and independent of how an adapter was factorised; but the weight is formed once for
    each adapter: ``4 * n * out * in`` bytes. ``rank`` is the largest of the parts by default, at most their sum.
    """

    method: Elementwise
    rank: int | None = None

    def __post_init__(self) -> None:
        Keep(self.rank)

    def fuse(self, parts: Sequence[Part]) -> Factors:
        """Return ordered ranks."""
        weights = torch.tensor([part.weight for part in parts], dtype=torch.float32)
        merged = self.method.merge(torch.stack([part.up @ part.down for part in parts]), weights)
        start = torch.cat([part.down for part in parts])
        return leading(merged, start, Keep(self.rank or max(part.rank for part in parts)))


def on_delta(method: Callable[..., Elementwise], *, rank: int | None = None, **options: Any) -> Fusion:
    """Return a method, made with ``options``, that merges what adapters add."""
    return OnDelta(method(**options), rank)
