"""Cache-Craft (Agarwal et al., SIGMOD 2025, arXiv:2502.15734): bundles as they stood in earlier prompts, mended.

What a prompt was composed of stays, bundle by bundle, as *variants*: caches that were computed anew in part, behind the
bundles before them. The next prompt takes of each bundle the variant whose context is most like its own, and computes
anew only as much as the difference calls for (:mod:`.scores`): nothing where the same bundles stand before it again.

Whatever the question: what it looks at was chosen when the variant was made. A bundle without a variant is blended.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from memos.activation.compose.base import Composed, Mode, Stage, counted
from memos.activation.compose.blend import Choice, most
from memos.activation.compose.moving import Rows, assemble
from memos.activation.compose.parts import Parts, Span
from memos.activation.compose.recompute import Recomputation
from memos.activation.compose.scores import Paid
from memos.activation.compose.variants import Variant
from memos.activation.kv import KVBlock
from memos.store.lineage import Source


@dataclass(frozen=True, slots=True)
class Taken:
    """A variant that stands for a part; ``outlay`` is ``CFO / alpha`` where it stands now."""

    variant: Variant
    outlay: float


class Craft(Mode):
    """``craft``: of the memories' tokens, at most about a share of ``ratio`` is computed anew; 1 is a full prefill.

    ``ratio`` is what would be computed if nothing of any context were there again (``beta' = 0``), on the mean over
    bundles, the first one counted as in ``blend``: ``alpha = r / mean CCI`` with ``r = ratio x tokens / moved tokens``
    and the mean over the tokens that variants stand for. A bundle without a variant is computed to the share ``r``, as
    ``blend`` chooses; one with a variant to the share ``CFO``, rounded up to whole tokens: 0 where ``beta' = 1``. At
    ratio 1 no variant is taken: everything behind the first bundle is computed, and left as exact variants.

    Equal input and equal variants give equal output.
    """

    name = "craft"

    def compose(self, stage: Stage, parts: Parts, question: Sequence[int]) -> Composed:
        """Compose: choose variants, move, choose rows, compute, and leave variants."""
        budget, moved = math.floor(self.ratio * parts.memory_tokens), parts.memory_tokens - len(parts.spans[0])
        taken = _taken(stage, parts) if budget < moved else {}
        rows = {number: Rows(one.variant.kv, 0, one.variant.first) for number, one in taken.items()}
        recomputation = Recomputation(stage.loaded, parts, assemble(stage.loaded, parts, None, rows))
        crafting = _Crafting(recomputation, parts, taken, budget)
        stage.runtime.interleave(crafting.run(question))
        kv = KVBlock(parts.shape, recomputation.cache)
        if stage.variants is not None:
            for number, one in taken.items():
                stage.variants.count(one.variant, crafting.shares[number])
            stage.variants.put(list(_made(parts, taken, kv, crafting)))
        full = len(parts.tokens) * recomputation.layers
        return Composed(kv, counted(parts, crafting.chosen), recomputation.ran / full)


def _taken(stage: Stage, parts: Parts) -> dict[int, Taken]:
    """Return of each moved part, by number, the variant that stands for it, if one does."""
    if stage.variants is None:
        return {}
    names = [part.identity for part in parts.parts]
    found: defaultdict[str, list[Variant]] = defaultdict(list)
    for one in stage.variants.of(names[1:]):
        found[one.bundle].append(one)
    best = {number: _best(found[name], names[:number]) for number, name in enumerate(names)}
    return {number: one for number, one in best.items() if one is not None}


def _best(variants: Sequence[Variant], context: Sequence[str]) -> Taken | None:
    """Return the variant of the least CFO; of equals, the one with most of the context, the latest.

    None where all stood behind nothing but other bundles: the file knows no context, rather than a wrong one.
    """
    fitting = [Taken(one, one.outlay(context)) for one in reversed(variants) if one.fit(context)]
    return min(fitting, key=lambda one: (one.outlay, -len(set(context) & set(one.variant.context))), default=None)


class _Crafting:
    """One composition: ``chosen`` are the rows that are computed anew, ``shares`` the CFO of each variant.

    ``paid`` ``[chosen, parts]`` is what attention they pay, as :meth:`Recomputation.weighed` tells.
    """

    def __init__(self, recomputation: Recomputation, parts: Parts, taken: Mapping[int, Taken], budget: int) -> None:
        self._recomputation = recomputation
        self._spans = parts.spans
        self._taken = taken
        moved = recomputation.moved
        alone = torch.ones(len(parts.tokens), dtype=torch.bool)
        for number in taken:
            alone[_places(self._spans[number])] = False
        among = moved[alone[moved]]
        budget = min(budget, len(moved))
        self._choice = Choice(recomputation, among, budget * len(among) // max(len(moved), 1))
        self.shares = _shares(taken, budget / max(len(moved), 1))
        self.chosen = moved[:0]
        self.paid = torch.zeros(0, len(self._spans))

    def run(self, question: Sequence[int]) -> Iterator[None]:
        """Choose and compute."""
        yield from self._choice.run(question)
        chosen = [self._choice.chosen, *map(self._stale, self._taken)]
        self.chosen = torch.cat(chosen).sort().values
        yield from self._recomputation.weighed(self.chosen, self._tell)

    def _stale(self, number: int) -> torch.Tensor:
        """Return the rows of a part that paid most attention to the context that its variant stood in."""
        rows = _places(self._spans[number])
        count = math.ceil(self.shares[number] * len(rows))
        return rows[most(self._taken[number].variant.paid.to_context, torch.arange(len(rows)), count)]

    def _tell(self, paid: torch.Tensor) -> None:
        self.paid = paid


def _shares(taken: Mapping[int, Taken], share: float) -> dict[int, float]:
    """Return the CFO of each part, of which ``share`` is the mean where nothing of any context is there again."""
    sizes = {number: one.variant.kv.tokens for number, one in taken.items()}
    impact = sum(one.variant.impact * sizes[number] for number, one in taken.items()) / max(sum(sizes.values()), 1)
    return {number: min(share / impact * one.outlay, 1.0) for number, one in taken.items()}


def _made(parts: Parts, taken: Mapping[int, Taken], kv: KVBlock, crafting: _Crafting) -> Iterator[Variant]:
    """Yield a variant of each part that rows of were computed, as it stands now.

    Its values depend on what stands before it, and on all that those caches depended on when they were taken.
    """
    names = [part.identity for part in parts.parts]
    bundles, sources = frozenset[str](), frozenset[Source]()
    for number, (part, span) in enumerate(zip(parts.parts, parts.spans, strict=True)):
        old = taken[number].variant if number in taken else None
        bundles |= old.bundles if old is not None else {names[number]}
        sources |= old.sources if old is not None else set(part.sources)
        inside = (crafting.chosen >= span.first) & (crafting.chosen < span.last)
        if number and inside.any():
            rows = KVBlock(kv.shape, kv.data[:, :, :, span.first : span.last].clone())
            paid = _carried(old, names[:number], parts.spans)
            paid.before[crafting.chosen[inside] - span.first] = crafting.paid[inside, :number]
            paid.own[crafting.chosen[inside] - span.first] = crafting.paid[inside, number]
            yield Variant(names[number], tuple(names[:number]), span.first, rows, paid, bundles, sources)


def _carried(old: Variant | None, context: Sequence[str], spans: Sequence[Span]) -> Paid:
    """Return what the tokens of the part behind a context paid as far as an older variant knows: to what is there."""
    count = len(spans[len(context)])
    paid = Paid(torch.zeros(count, len(context)), torch.zeros(count), tuple(map(len, spans[: len(context)])))
    if old is not None:
        paid.own[:] = old.paid.own
        for place, name in enumerate(context):
            if name in old.context:
                paid.before[:, place] = old.paid.before[:, old.context.index(name)]
    return paid


def _places(span: Span) -> torch.Tensor:
    return torch.arange(span.first, span.last)
