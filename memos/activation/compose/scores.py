"""Chunk scores (Cache-Craft, arXiv:2502.15734, section 3): how much another context makes a bundle's cache wrong.

For a bundle ``i`` of ``|i|`` tokens, whose cache stood behind bundles ``j`` of ``|j|`` tokens in a prompt before, with
attention weights averaged over heads and layers::

    inter(i, j) = sum of what tokens of i pay to tokens of j            intra(i) = ... to tokens of i up to themselves
    a = sum over j of inter(i, j) / (|i| |j|)                            b = intra(i) / |i|^2
    CCI = 1 / (1 + exp(-a / b))                                          how much the context counts, 1/2 to 1
    beta = sum over j in the new context of inter(i, j) / sum over all j of inter(i, j)
    gamma = pairs of common bundles in another order / all pairs of common bundles      (Kendall)
    beta' = beta (1 - gamma)                                             how much of the context is there again
    CFO = alpha CCI (1 - beta')                                          the share of i to compute anew

Where only some tokens of ``i`` were computed in that prompt, the sums are theirs alone: a sample of the bundle's. ``a``
and ``b`` shrink alike, so that their ratio does not. The head of a prompt is before every bundle: it counts nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch


@dataclass(frozen=True, slots=True, eq=False)
class Paid:
    """What the tokens of a bundle paid: to bundles ``before`` it, ``[n, bundles]``, and to its ``own`` tokens, ``[n]``.

    Float32, means over heads and layers, summed over the tokens of a bundle; zero for tokens that were not computed
    there. ``sizes`` are the tokens of each bundle before.
    """

    before: torch.Tensor
    own: torch.Tensor
    sizes: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """The size in memory."""
        return self.before.nbytes + self.own.nbytes

    @property
    def to_context(self) -> torch.Tensor:
        """What each token paid to the context, ``[n]``."""
        return self.before.sum(1)

    @property
    def impact(self) -> float:
        """CCI. Needs a context."""
        count = len(self.own)
        outside = float((self.before.double().sum(0) / torch.tensor(self.sizes)).sum()) / count
        inside = float(self.own.double().sum()) / count**2
        return 1 / (1 + math.exp(-outside / inside)) if inside else 1.0


def overlap(paid: Paid, old: Sequence[str], new: Sequence[str]) -> float:
    """Return ``beta`` of a cache that stood behind ``old`` bundles and is to stand behind ``new`` ones."""
    to_each = paid.before.double().sum(0).tolist()
    whole = sum(to_each)
    there = sum(each for name, each in zip(old, to_each, strict=True) if name in new)
    return there / whole if whole else 1.0


def disorder(old: Sequence[str], new: Sequence[str]) -> float:
    """Return ``gamma``: the share of pairs, of what both have, that stand the other way round."""
    places = {name: place for place, name in enumerate(new)}
    pairs = list(combinations([places[name] for name in old if name in places], 2))
    return sum(one > other for one, other in pairs) / len(pairs) if pairs else 0.0


def fit(paid: Paid, old: Sequence[str], new: Sequence[str]) -> float:
    """Return ``beta'``: 1 where the context is there again, in its order."""
    return overlap(paid, old, new) * (1 - disorder(old, new))
