"""The base of all policies: a cache and a share to keep, to the entries that stay.

:class:`Policy` -> :class:`Selector`, which only drops -> :class:`ScoreSelector`, which keeps the best by a score.
A policy is a frozen dataclass: its first field is the share of entries to keep, the others are options with defaults.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from memos.activation.kv import KVBlock
from memos.activation.seen import Need, Seen, attention_of
from memos.activation.select.budgets import best, uniform

#: Tokens at the start that no policy of this package drops: attention sinks (Xiao et al., arXiv:2309.17453).
SINKS = 4


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a policy leaves: ``kept``, bool ``[layers, heads, tokens]``, of ``data`` like a :class:`KVBlock`'s.

    ``counts``, int64 like ``kept``: how many tokens an entry stands for; None where each is itself.
    """

    kept: torch.Tensor
    data: torch.Tensor
    counts: torch.Tensor | None = None


@dataclass(frozen=True)
class Policy(ABC):
    """Chooses ``ratio`` of the entries of a cache, all layers and heads together. Stateless."""

    needs: ClassVar[frozenset[Need]] = frozenset()

    ratio: float

    @abstractmethod
    def prune(self, kv: KVBlock) -> Pruned:
        """Return what is left. Raises ``ValueError`` where ``kv.seen`` lacks what it needs."""


class Selector(Policy):
    """Drops entries and leaves the others as they are."""

    @abstractmethod
    def select(self, kv: KVBlock) -> torch.Tensor:
        """Return which entries are kept, bool ``[layers, heads, tokens]``. Raises ``ValueError``."""

    def prune(self, kv: KVBlock) -> Pruned:
        """Return the selection."""
        return Pruned(self.select(kv), kv.data)


class ScoreSelector(Selector):
    """Keeps the entries of the highest score, within a budget for each head."""

    @abstractmethod
    def scores(self, kv: KVBlock) -> torch.Tensor:
        """Return float32 ``[layers, heads, tokens]``, higher is kept rather; infinity is kept first."""

    def budgets(self, kv: KVBlock) -> torch.Tensor:
        """Return how many entries a head keeps, int64 ``[layers, heads]``: as many as any other."""
        return uniform(kv, self.ratio)

    def select(self, kv: KVBlock) -> torch.Tensor:
        """Return the best of each head."""
        return best(self.scores(kv), self.budgets(kv))


def seen_of(kv: KVBlock, what: str) -> tuple[Seen, torch.Tensor]:
    """Return what was noted and its field ``what``. Raises ``ValueError`` if that was not noted."""
    noted = None if kv.seen is None else getattr(kv.seen, what)
    if kv.seen is None or noted is None:
        raise ValueError(f"the prompt's {what} was not noted while its cache was computed")
    return kv.seen, noted


def protect(scores: torch.Tensor, recent: int) -> torch.Tensor:
    """Return scores by which the sinks and the last ``recent`` tokens are kept first; ``scores`` is not changed."""
    scores = scores.clone()
    scores[..., :SINKS] = torch.inf
    scores[..., max(scores.shape[-1] - recent, 0) :] = torch.inf
    return scores


def window_of(kv: KVBlock, ratio: float, window: int) -> int:
    """Return how many tokens at the end are kept whatever their score: ``window``, at most half of the budget."""
    return max(1, min(window, round(kv.tokens * ratio) // 2))


def tail_attention(kv: KVBlock, window: int) -> Iterator[torch.Tensor]:
    """Yield each layer's attention of its last ``window`` rows, float32 ``[kv_heads, group, window, tokens]``.

    Raises ``ValueError`` unless the tail was noted.
    """
    seen, tail = seen_of(kv, "tail")
    for layer, query in zip(kv.data, tail, strict=True):
        yield attention_of(query[:, -window:], layer[0], seen.scaling)
