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
        blending = _Blending(recomputation, question, math.floor(self.ratio * parts.memory_tokens))
        stage.runtime.interleave(blending.run())
        full = len(parts.tokens) * recomputation.layers
        kv = KVBlock(parts.shape, recomputation.cache)
        return Composed(kv, counted(parts, blending.chosen), recomputation.ran / full)


class _Blending:
    """One composition; ``chosen`` are the rows it recomputes, once they are known."""

    def __init__(self, recomputation: Recomputation, question: Sequence[int], budget: int) -> None:
        self._recomputation = recomputation
        self._question = question
        self._budget = min(budget, len(recomputation.moved))
        self._weight = torch.ones(0)
        self.chosen = recomputation.moved[:0]

    def run(self) -> Iterator[None]:
        """Choose and compute."""
        recomputation = self._recomputation
        if self._budget == len(recomputation.moved):
            self.chosen = recomputation.moved
        elif self._budget:
            yield from recomputation.look(self._question, self._weigh)
            candidates = most(self._weight, recomputation.moved, CANDIDATES * self._budget)
            yield from recomputation.check(candidates, self._weigh)
            self.chosen = most(self._weight, candidates, self._budget)
        yield from recomputation.rows(self.chosen)

    def _weigh(self, by: torch.Tensor) -> None:
        self._weight = by if not len(self._weight) else self._weight * by


def most(weight: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """Return the ``count`` rows of the greatest weight, growing; of equals, the later ones."""
    order = torch.argsort(weight[rows].flip(0), descending=True, stable=True)[:count]
    return rows.flip(0)[order].sort().values
