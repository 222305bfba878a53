"""ReKV: pages by their mean key (Di et al., arXiv:2503.00540)."""

from __future__ import annotations

import torch

from memos.runtime.retrieval.base import Index, Method
from memos.runtime.retrieval.names import PAGE


class Means(Index):
    """The mean key of each page, which scores as the mean of its tokens do."""

    def __init__(self, means: torch.Tensor) -> None:
        self._means = means.transpose(1, 2).contiguous()

    def scores(self, query: torch.Tensor) -> torch.Tensor:
        """Return the mean score of the tokens of each page."""
        return query @ self._means


class BlockMean(Method):
    """Mean keys: a page on the subject counts, a single token that stands out in another does not.

    The paper takes one mean of a question's queries for its blocks, and frames of video for those; here each row
    chooses for itself, so that no answer depends on which rows happened to run together.
    """

    def index(self, keys: torch.Tensor) -> Means:
        """Return the means: a sixteenth of the memory of the keys they are of."""
        return Means(torch.stack([page.mean(1) for page in keys.split(PAGE, 1)], 1))
