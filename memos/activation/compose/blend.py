"""CacheBlend (Yao et al., arXiv:2405.16444): compute anew the tokens whose caches are most wrong, where that matters.

Published, the tokens are those whose values deviate most at one layer. But most tokens that deviate are never looked
at by the question at hand, which is known when a prompt is composed: a deviation counts here by the attention that the
question pays to the token.

The model's drift (:mod:`.drift`) is not added: computing what is looked at gains as much without it, and now and then
it keeps an answer from finding the words that it should repeat.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from memos.activation.compose.base import Composed, Mode, Stage, counted
from memos.activation.compose.moving import assemble
from memos.activation.compose.parts import Parts
from memos.activation.compose.recompute import Recomputation
from memos.activation.kv import KVBlock

#: How many times as many tokens are checked as computed: those that the question looks at most.
CANDIDATES = 2


class Blend(Mode):
    """``blend``: of the memories' tokens, a share of ``ratio`` is computed anew; 1 is a full prefill."""

    name = "blend"

    def compose(self, stage: Stage, parts: Parts, question: Sequence[int]) -> Composed:
        """Compose: move, look and check, choose, compute."""
        cache = assemble(stage.loaded, parts, None)
        recomputation = Recomputation(stage.loaded, parts, cache)
        choice = Choice(recomputation, recomputation.moved, math.floor(self.ratio * parts.memory_tokens))
        stage.runtime.interleave(_blended(recomputation, choice, question))
        full = len(parts.tokens) * recomputation.layers
        kv = KVBlock(parts.shape, recomputation.cache)
        return Composed(kv, counted(parts, choice.chosen), recomputation.ran / full)


def _blended(recomputation: Recomputation, choice: Choice, question: Sequence[int]) -> Iterator[None]:
    yield from choice.run(question)
    yield from recomputation.rows(choice.chosen)


class Choice:
    """Which ``budget`` of some rows (positions, int64 ``[n]``, growing) to compute anew: ``chosen``, once it ran."""

    def __init__(self, recomputation: Recomputation, among: torch.Tensor, budget: int) -> None:
        self._recomputation = recomputation
        self._among = among
        self._budget = min(budget, len(among))
        self._weight = torch.ones(0)
        self.chosen = among[:0]

    def run(self, question: Sequence[int]) -> Iterator[None]:
        """Look and check."""
        if self._budget == len(self._among):
            self.chosen = self._among
        elif self._budget:
            yield from self._recomputation.look(question, self._weigh)
            candidates = most(self._weight, self._among, CANDIDATES * self._budget)
            yield from self._recomputation.check(candidates, self._weigh)
            self.chosen = most(self._weight, candidates, self._budget)

    def _weigh(self, by: torch.Tensor) -> None:
        self._weight = by if not len(self._weight) else self._weight * by


def most(weight: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """Return the ``count`` rows of the greatest weight, growing; of equals, the later ones."""
    order = torch.argsort(weight[rows].flip(0), descending=True, stable=True)[:count]
    return rows.flip(0)[order].sort().values
