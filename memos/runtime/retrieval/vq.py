"""A2ATS: tokens by the nearest entry of a codebook (He et al., arXiv:2502.12665)."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from memos.runtime.retrieval.base import Index, Method
from memos.runtime.retrieval.names import PAGE

#: Entries of a codebook, for as many tokens at least each; and rounds of Lloyd's algorithm.
ENTRIES, TOKENS_EACH, ROUNDS = 256, 8, 6


class Codes(Index):
    """A codebook for each head of keys, ``[kv_heads, entries, D]``, and the entry of each token, ``[kv_heads, T]``.

    A query meets the entries, not the tokens. A page is worth the logarithm of what its tokens would weigh together.
    """

    def __init__(self, book: torch.Tensor, codes: torch.Tensor) -> None:
        self._book = book.transpose(1, 2).contiguous()
        #: Missing tokens of the last page have a code of their own, which weighs nothing.
        self._codes = pad(codes, (0, -codes.shape[1] % PAGE), value=book.shape[1])

    def scores(self, query: torch.Tensor) -> torch.Tensor:
        """Return ``log sum_t exp(q . entry of t)`` over the tokens of each page."""
        table = query @ self._book  # [kv_heads, n, entries]
        highest = table.amax(-1, keepdim=True)
        weights = pad((table - highest).exp(), (0, 1))
        tokens = weights.gather(2, self._codes.unsqueeze(1).expand(-1, query.shape[1], -1))
        sums: torch.Tensor = tokens.unflatten(2, (-1, PAGE)).sum(-1)
        return sums.log() + highest


class VectorQuantisation(Method):
    """Keys by k-means, which begins with tokens at even distances: no chance is involved.

    The paper weighs errors by the queries that a model has on calibration texts and undoes RoPE for distant tokens;
    here each cache has codebooks of its own, of keys as they are, so that nothing has to be known of a model.
    """

    def index(self, keys: torch.Tensor) -> Codes:
        """Return codes, eight bytes a token, and the codebooks."""
        tokens = keys.shape[1]
        count = max(min(ENTRIES, tokens // TOKENS_EACH), 1)
        book = keys[:, torch.linspace(0, tokens - 1, count, device=keys.device).long()]
        for _ in range(ROUNDS):
            book = _moved(keys, book, _nearest(keys, book))
        return Codes(book, _nearest(keys, book))


def _nearest(keys: torch.Tensor, book: torch.Tensor) -> torch.Tensor:
    """Return the entry of a book ``[kv_heads, entries, D]`` that is closest to each key, int64 ``[kv_heads, T]``."""
    return (book.square().sum(-1).unsqueeze(1) - 2 * keys @ book.transpose(1, 2)).argmin(-1)


def _moved(keys: torch.Tensor, book: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return the means of the keys of each entry; one that has none stays."""
    sums = torch.zeros_like(book).scatter_add_(1, codes.unsqueeze(-1).expand_as(keys), keys)
    counts = torch.zeros_like(book[..., 0]).scatter_add_(1, codes, torch.ones_like(keys[..., 0])).unsqueeze(-1)
    return torch.where(counts > 0, sums / counts.clamp(min=1), book)
