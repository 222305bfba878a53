"""Quest: pages by the most that a query could find in them (Tang et al., arXiv:2406.10774; so does LServe,
arXiv:2502.14866).
"""

from __future__ import annotations

import torch

from memos.runtime.retrieval.base import Index, Method, paged


class Bounds(Index):
    """The least and the largest that each channel of the keys of a page is.

    No token of a page scores higher than ``sum_d max(q_d least_d, q_d largest_d)``. A query's positive channels meet
    the largest and its negative ones the least, so that is one product of matrices.
    """

    def __init__(self, least: torch.Tensor, largest: torch.Tensor) -> None:
        #: ``[kv_heads, 2 D, pages]``.
        self._bounds = torch.cat([largest, least], -1).transpose(1, 2).contiguous()

    def scores(self, query: torch.Tensor) -> torch.Tensor:
        """Return the bound of each page."""
        return torch.cat([query.clamp(min=0), query.clamp(max=0)], -1) @ self._bounds


class Quest(Method):
    """Upper bounds, which miss no page with a token that stands out, but may take one that has none."""

    def index(self, keys: torch.Tensor) -> Bounds:
        """Return the bounds: an eighth of the memory of the keys they are of."""
        least, largest = paged(keys).aminmax(dim=2)
        return Bounds(least, largest)
