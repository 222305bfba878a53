"""Near-duplicates among ranked memories: one of them is enough."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from memos.plaintext.analysis import words

#: All must hold. The cosine alone would take "on 5 May" and "on 6 May" for one memory.
SAME_VECTOR = 0.95
SAME_WORDS = 0.9
SAME_PAIRS = 0.8


@dataclass(frozen=True, slots=True)
class Collapsed:
    """Position of a kept item and of the later ones that say the same."""

    kept: int
    duplicates: tuple[int, ...]


def collapse(items: Sequence[tuple[str, NDArray[np.float32]]], limit: int) -> list[Collapsed]:
    """Group ``(text, unit vector)`` items, best first, until ``limit`` groups are found.

    Two items are the same when their vectors agree (:data:`SAME_VECTOR`), nine tenths of their words and eight tenths
    of the pairs of adjacent words are common ("Ann owes Bob" is not "Bob owes Ann"), and they hold the same numbers.
    """
    if not items:
        return []
    vectors = np.stack([vector for _, vector in items])
    close = vectors @ vectors.T >= SAME_VECTOR
    kept: list[int] = []
    duplicates: dict[int, list[int]] = {}
    for index in range(len(items)):
        twin = _twin(index, [other for other in kept if close[index, other]], items)
        if twin is not None:
            duplicates[twin].append(index)
        elif len(kept) < limit:
            kept.append(index)
            duplicates[index] = []
    return [Collapsed(index, tuple(duplicates[index])) for index in kept]


def _twin(index: int, close: Sequence[int], items: Sequence[tuple[str, NDArray[np.float32]]]) -> int | None:
    """Return the first of the ``close`` items that says the same; words are compared only where vectors agree."""
    if not close:
        return None
    own = tuple(words(items[index][0]))
    return next((other for other in close if _same_words(own, tuple(words(items[other][0])))), None)


def _same_words(one: Sequence[str], other: Sequence[str]) -> bool:
    return (
        _numbers(one) == _numbers(other)
        and _overlap(one, other) >= SAME_WORDS
        and _overlap([*pairwise(one)], [*pairwise(other)]) >= SAME_PAIRS
    )


def _numbers(text: Sequence[str]) -> list[str]:
    return [word for word in text if word.isdigit()]


def _overlap(one: Sequence[Hashable], other: Sequence[Hashable]) -> float:
    """Return the share of things in either that are in both (Jaccard); 1 where there is nothing to compare."""
    union = set(one) | set(other)
    return len(set(one) & set(other)) / len(union) if union else 1.0
