"""The two halves of every method: keys are summarised once, and queries judge the summary."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from memos.runtime.retrieval.names import PAGE


class Index(ABC):
    """A summary of the keys of one layer, page by page, on the model's device. Nobody writes into it."""

    @abstractmethod
    def scores(self, query: torch.Tensor) -> torch.Tensor:
        """Return what each page promises each query: the more, the rather it is attended.

        ``query`` is float32 ``[kv_heads, n, D]``, scaled as scores are; the result float32 ``[kv_heads, n, pages]``.
        """


class Method(ABC):
    """A way to summarise. Equal keys give equal summaries."""

    @abstractmethod
    def index(self, keys: torch.Tensor) -> Index:
        """Return the summary of keys after RoPE, float32 ``[kv_heads, tokens, D]``; the last page may not be full."""


def paged(keys: torch.Tensor) -> torch.Tensor:
    """Return keys ``[kv_heads, tokens, D]`` as ``[kv_heads, pages, 16, D]``, the last page filled with its last key.

    That changes no minimum and no maximum.
    """
    missing = -keys.shape[1] % PAGE
    if missing:
        keys = torch.cat([keys, keys[:, -1:].expand(-1, missing, -1)], 1)
    return keys.view(len(keys), -1, PAGE, keys.shape[2])
