"""Inputs that tests and benchmarks share: which adapters a batch uses, shuffled pages, random caches.

The five popularity patterns are Punica's (arXiv:2310.18547).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

POPULARITY = ("identical", "distinct", "uniform", "zipf", "skewed")


def popularity(pattern: str, batch: int, seed: int = 0) -> list[int]:
    """Return the adapter of each of ``batch`` tokens.

    ``identical``: one for all; ``distinct``: one each; ``uniform``: about the square root of ``batch`` of them, alike;
    ``zipf``: by Zipf's law with exponent 1.5; ``skewed``: half of the tokens share one, the others have one each.
    """
    random, places = np.random.default_rng(seed), np.arange(batch)
    chosen: NDArray[Any]
    if pattern == "identical":
        chosen = np.zeros(batch)
    elif pattern == "distinct":
        chosen = random.permutation(batch)
    elif pattern == "uniform":
        chosen = random.integers(0, max(1, round(batch**0.5)), batch)
    elif pattern == "zipf":
        chosen = np.minimum(random.zipf(1.5, batch) - 1, batch - 1)
    elif pattern == "skewed":
        chosen = np.where(places < batch // 2, 0, places)
    else:
        raise ValueError(f"no popularity pattern {pattern!r}; there are {', '.join(POPULARITY)}")
    return [int(adapter) for adapter in chosen]


def shuffled_table(rows: int, blocks: int, seed: int = 0, spare: int = 0) -> torch.Tensor:
    """Return int32 ``[rows, blocks]``: every page of ``rows * blocks + spare`` at most once, in random order."""
    order = np.random.default_rng(seed).permutation(rows * blocks + spare)[: rows * blocks]
    return torch.from_numpy(order.astype(np.int32).reshape(rows, blocks))


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Return standard normal numbers, the same for a seed on every machine."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype)
