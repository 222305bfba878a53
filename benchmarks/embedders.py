"""Embedders for benchmarks: the bundled model with a memory, so that every system compared gets identical vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memos.embedding.local import LocalEmbedder


class RememberingEmbedder:
    """The bundled model; a text is embedded once however many systems ask for it."""

    def __init__(self) -> None:
        self._model = LocalEmbedder()
        self._known: dict[str, NDArray[np.float32]] = {}

    @property
    def identity(self) -> str:
        """The model's own identity."""
        return self._model.identity

    @property
    def dimension(self) -> int:
        """Elements per vector."""
        return self._model.dimension

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 ``[n, dimension]``, from memory where known."""
        unknown = list(dict.fromkeys(text for text in texts if text not in self._known))
        if unknown:
            self._known.update(zip(unknown, self._model.embed(unknown), strict=True))
        return np.stack([self._known[text] for text in texts])

    def count_tokens(self, text: str) -> int:
        """Count with the model's tokenizer."""
        return self._model.count_tokens(text)


class GivenEmbedder:
    """Vectors made beforehand, looked up by text: embedding costs nothing, so it is excluded from a timing."""

    identity = "benchmark:given"

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._known: dict[str, NDArray[np.float32]] = {}

    def give(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Make the vectors of ``texts`` known."""
        self._known.update(zip(texts, vectors, strict=True))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the given vectors."""
        return np.stack([self._known[text] for text in texts])

    def count_tokens(self, text: str) -> int:
        """Count words."""
        return len(text.split())
