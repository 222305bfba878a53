"""What every method is compared with: pages at random, and the latest."""

from __future__ import annotations

import torch

from memos.runtime.retrieval.base import Index, Method
from memos.runtime.retrieval.names import PAGE


class Fixed(Index):
    """Scores ``[kv_heads, pages]`` that are the same for all queries."""

    def __init__(self, scores: torch.Tensor) -> None:
        self._scores = scores

    def scores(self, query: torch.Tensor) -> torch.Tensor:
        """Return them for every query."""
        return self._scores.unsqueeze(1).repeat(1, query.shape[1], 1)


class Random(Method):
    """Pages at random: others in every layer, the same for all rows."""

    def index(self, keys: torch.Tensor) -> Fixed:
        """Return random scores, seeded by the keys."""
        seed = int(keys[0, -1].contiguous().view(torch.int32).long().sum())
        random = torch.Generator().manual_seed(seed)
        return Fixed(torch.rand(len(keys), -(-keys.shape[1] // PAGE), generator=random).to(keys.device))


class Recent(Method):
    """The latest pages: with the first, what StreamingLLM (arXiv:2309.17453) keeps."""

    def index(self, keys: torch.Tensor) -> Fixed:
        """Return scores that rise with the position."""
        pages = torch.arange(-(-keys.shape[1] // PAGE), dtype=torch.float32, device=keys.device)
        return Fixed(pages.expand(len(keys), -1))
