"""What any policy has to be better than: tokens at random, and the latest ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memos.activation.kv import KVBlock
from memos.activation.select.base import SINKS, ScoreSelector


@dataclass(frozen=True)
class Random(ScoreSelector):
    """Keeps tokens at random, the same for all heads, besides ``sinks`` at the start."""

    sinks: int = SINKS
    seed: int = 0

    def scores(self, kv: KVBlock) -> torch.Tensor:
        """Return random numbers."""
        drawn = torch.rand(kv.tokens, generator=torch.Generator().manual_seed(self.seed))
        drawn[: self.sinks] = torch.inf
        return drawn.expand(kv.shape.layers, kv.shape.heads, -1)


@dataclass(frozen=True)
class Recent(ScoreSelector):
    """Keeps the latest tokens and ``sinks`` at the start (StreamingLLM, Xiao et al., arXiv:2309.17453)."""

    sinks: int = SINKS

    def scores(self, kv: KVBlock) -> torch.Tensor:
        """Return positions."""
        places = torch.arange(float(kv.tokens))
        places[: self.sinks] = torch.inf
        return places.expand(kv.shape.layers, kv.shape.heads, -1)
