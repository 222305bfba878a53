"""Where the demo's time goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from memos.embedding.base import Embedder


class TimedEmbedder:
    """An embedder that adds up the seconds it works."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.seconds = 0.0

    @property
    def identity(self) -> str:
        """As the embedder inside."""
        return self._embedder.identity

    @property
    def dimension(self) -> int:
        """As the embedder inside."""
        return self._embedder.dimension

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 ``[len(texts), dimension]`` unit vectors."""
        start = time.perf_counter()
        vectors = self._embedder.embed(texts)
        self.seconds += time.perf_counter() - start
        return vectors

    def count_tokens(self, text: str) -> int:
        """As the embedder inside."""
        return self._embedder.count_tokens(text)


class Stopwatch:
    """Seconds by the name of what they went into."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time of the block to ``name``."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def move(self, name: str, into: str, seconds: float) -> None:
        """Book ``seconds`` of ``name`` as ``into``."""
        self.seconds[name] -= seconds
        self.seconds[into] = self.seconds.get(into, 0.0) + seconds

    @property
    def total(self) -> float:
        """Seconds since the watch was made."""
        return time.perf_counter() - self._start


def quantiles(milliseconds: Sequence[float]) -> dict[str, float]:
    """Return the median and the 95th percentile."""
    p50, p95 = np.percentile(milliseconds, [50, 95])
    return {"p50": float(p50), "p95": float(p95)}
