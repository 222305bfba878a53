"""Elastic Cache: a dropped token goes into the nearest one that is kept (Liu et al. 2024, arXiv:2407.18121).

Needs all queries: tokens count in the mean by the attention they received. The paper's plain mean lets the dropped
outvote what was worth keeping, and came out behind keeping the latest tokens.
"""

from __future__ import annotations

import torch

from memos.activation.kv import KVBlock
from memos.activation.merge.base import Merger
from memos.activation.merge.fold import NOBODY
from memos.activation.seen import Need
from memos.activation.select.base import SINKS, seen_of


class Nearest(Merger):
    """Averages every dropped token into the nearest by position; of two, the earlier."""

    needs = frozenset({Need.MASS})

    def assign(self, kv: KVBlock, index: int, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the nearest kept token of each, and the attention received."""
        return outside_sinks(nearest(kept), kept), seen_of(kv, "mass")[1][index]


def outside_sinks(owners: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Return owners ``[heads, tokens]`` without those tokens that would go into a sink, which has to stay as it is."""
    return torch.where(kept | (owners >= SINKS), owners, NOBODY)


def nearest(kept: torch.Tensor) -> torch.Tensor:
    """Return for each token the place of the nearest kept one, int64 like ``kept`` ``[heads, tokens]``."""
    tokens = kept.shape[-1]
    places = torch.arange(tokens).expand_as(kept)
    before = torch.where(kept, places, -2 * tokens).cummax(-1).values
    after = torch.where(kept, places, 3 * tokens).flip(-1).cummin(-1).values.flip(-1)
    return torch.where(places - before <= after - places, before, after)
