"""Elastic Cache: a dropped token goes into the nearest one that is kept (Liu et al. 2024, arXiv:2407.18121)."""

from __future__ import annotations

import torch

from memos.activation.kv import KVBlock
from memos.activation.merge.base import Merger


class Nearest(Merger):
    """Averages every dropped token into the nearest by position; of two, the earlier."""

    def assign(self, kv: KVBlock, index: int, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the nearest kept token of each, and equal weights."""
        return nearest(kept), torch.ones(kept.shape)


def nearest(kept: torch.Tensor) -> torch.Tensor:
    """Return for each token the place of the nearest kept one, int64 like ``kept`` ``[heads, tokens]``."""
    tokens = kept.shape[-1]
    places = torch.arange(tokens).expand_as(kept)
    before = torch.where(kept, places, -2 * tokens).cummax(-1).values
    after = torch.where(kept, places, 3 * tokens).flip(-1).cummin(-1).values.flip(-1)
    return torch.where(places - before <= after - places, before, after)
