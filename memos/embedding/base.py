"""What the engine asks of an embedder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from memos.errors import EmbedderUnavailable


class Embedder(Protocol):
    """Turns texts into unit vectors. Implementations must be safe to call from several threads."""

    @property
    def identity(self) -> str:
        """Name and digest of the model: vectors of different identities are never compared."""
        ...

    @property
    def dimension(self) -> int:
        """Elements per vector."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 ``[len(texts), dimension]``, rows of unit length.

        Raises :class:`memos.errors.EmbedderUnavailable` when the model cannot answer.
        """
        ...

    def count_tokens(self, text: str) -> int:
        """Return how many tokens a prompt spends on ``text`` (an upper estimate where no tokenizer is at hand)."""
        ...


def unit_rows(vectors: NDArray[np.float32], expected: int | None = None) -> NDArray[np.float32]:
    """Scale rows to unit length; refuse NaN, infinities, zero rows and a wrong width."""
    if vectors.ndim != 2 or (expected is not None and vectors.shape[1] != expected):
        raise EmbedderUnavailable(f"the embedder answered with shape {vectors.shape}, expected [n, {expected}]")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or (norms == 0).any():
        raise EmbedderUnavailable("the embedder answered with a zero or non-finite vector")
    scaled: NDArray[np.float32] = (vectors / norms).astype(np.float32, copy=False)
    return scaled


def estimated_tokens(text: str) -> int:
    """Return an upper estimate of the tokens of ``text``: one per three UTF-8 bytes, at least one per word."""
    return max(len(text.encode()) // 3 + 1, len(text.split()))
