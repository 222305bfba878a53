"""Cache-Craft: what is taken from earlier prompts, what is computed all the same, and on what it then depends."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

import pytest
import torch

from memos.activation.compose.base import Composed, Stage
from memos.activation.compose.craft import Craft
from memos.activation.compose.modes import compose, make_mode
from memos.activation.compose.parts import Parts
from memos.activation.compose.variants import OwnVariants, Variants
from memos.activation.hot import HotFiles
from memos.store.lineage import Source

pytestmark = pytest.mark.timeout(300)  # the first test loads the model

RATIO = 0.4


class Shelf:
    """A stage with variants of its own; notes ``forgotten`` do not stand."""

    def __init__(self, stage: Stage) -> None:
        self.forgotten: set[Source] = set()
        self.variants = OwnVariants(Variants(HotFiles(1 << 30)), "default\0ann", self._live)
        self.stage = replace(stage, variants=self.variants)

    def _live(self, sources: Collection[Source]) -> set[Source]:
        return set(sources) - self.forgotten

    def craft(self, parts: Parts, question: list[int], ratio: float = RATIO) -> Composed:
        """Compose."""
        return compose(self.stage, make_mode("craft", ratio), parts, question)


@pytest.fixture
def shelf(stage: Stage) -> Shelf:
    return Shelf(stage)


def ordered(parts: Parts, *numbers: int) -> Parts:
    return Parts(parts.head, tuple(parts.parts[number] for number in numbers))


def data_of(composed: Composed) -> torch.Tensor:
    return torch.stack([torch.stack(composed.kv.layer(layer)) for layer in range(composed.kv.shape.layers)])


def test_without_variants_it_is_blend(stage: Stage, shelf: Shelf, parts: Parts, question: list[int]) -> None:
    one, other = shelf.craft(parts, question), compose(stage, make_mode("blend", RATIO), parts, question)
    assert one.recomputed == other.recomputed
    assert one.work == pytest.approx(other.work)
    assert torch.allclose(data_of(one), data_of(other), atol=1e-3)


def test_same_bundles_again_are_taken_as_they_stood(shelf: Shelf, parts: Parts, question: list[int]) -> None:
    first, second = (shelf.craft(parts, question) for _ in range(2))
    assert sum(first.recomputed) > 0
    assert second.recomputed == (0, 0, 0, 0)
    assert second.work == 0.0
    assert torch.equal(data_of(first), data_of(second))


def test_variants_of_a_full_prefill_are_exact(
    stage: Stage, shelf: Shelf, parts: Parts, question: list[int], exact: torch.Tensor
) -> None:
    shelf.craft(parts, question, 1.0)
    again = shelf.craft(parts, question, 0.1)
    assert sum(again.recomputed) == 0
    assert (stage.runtime.logits((*parts.tokens, *question), again.kv) - exact).abs().max() < 1e-4


def test_another_order_is_mended_by_what_it_disturbs(
    stage: Stage, shelf: Shelf, parts: Parts, question: list[int]
) -> None:
    shelf.craft(parts, question, 1.0)
    moved = ordered(parts, 0, 2, 1, 3)
    names = [part.identity for part in moved.parts]
    (two,), (one,), (three,) = (shelf.variants.of([name]) for name in names[1:])
    assert three.fit(names[:3]) == pytest.approx(2 / 3)  # one pair of three stands the other way round
    assert one.fit(names[:2]) == 1.0  # the bundle it stood behind is there
    assert 0 < two.fit(names[:1]) < 1  # of two bundles it stood behind, one is
    mean = sum(each.impact * each.kv.tokens for each in (two, one, three)) / sum(
        each.kv.tokens for each in (two, one, three)
    )
    count = moved.memory_tokens - len(moved.spans[0])
    alpha = math.floor(RATIO * moved.memory_tokens) / count / mean
    expected = [
        math.ceil(alpha * each.impact * (1 - each.fit(names[: place + 1])) * each.kv.tokens)
        for place, each in enumerate((two, one, three))
    ]
    made = shelf.craft(moved, question)
    assert made.recomputed == (0, *expected)
    assert made.recomputed[2] == 0 < made.recomputed[3]


def test_tokens_that_paid_most_to_the_context_are_computed(shelf: Shelf, parts: Parts, question: list[int]) -> None:
    shelf.craft(parts, question, 1.0)
    moved = ordered(parts, 0, 2, 1, 3)
    (before,) = shelf.variants.of([parts.parts[3].identity])
    made = shelf.craft(moved, question)
    rows = data_of(made)[:, :, :, moved.spans[3].first :]
    changed = ((rows - before.kv.data).abs().amax((0, 1, 2, 4)) > 1e-6).nonzero().flatten()
    top = before.paid.to_context.topk(made.recomputed[3]).indices.sort().values
    assert torch.equal(changed, top)


def test_variant_behind_nothing_that_is_here_is_not_taken(
    stage: Stage, shelf: Shelf, parts: Parts, question: list[int]
) -> None:
    shelf.craft(ordered(parts, 0, 1), question)
    other = ordered(parts, 2, 1)
    made = shelf.craft(other, question)
    assert made.recomputed == compose(stage, make_mode("blend", RATIO), other, question).recomputed


def test_lineage_holds_whatever_a_variant_was_made_behind(shelf: Shelf, parts: Parts, question: list[int]) -> None:
    shelf.craft(ordered(parts, 0, 1, 2), question)
    shelf.craft(ordered(parts, 0, 2, 3), question)  # bundle 2 as it stood behind bundle 1, which is not here
    (three,) = shelf.variants.of([parts.parts[3].identity])
    assert three.context == (parts.parts[0].identity, parts.parts[2].identity)
    assert three.sources == {(f"note-{number}", 1) for number in range(4)}
    shelf.forgotten = {("note-1", 1)}
    crafted, cold = (one.craft(ordered(parts, 0, 2, 3), question) for one in (shelf, Shelf(shelf.stage)))
    assert crafted.recomputed == cold.recomputed
    assert torch.equal(data_of(crafted), data_of(cold))


def test_equal_variants_give_equal_caches(stage: Stage, parts: Parts, question: list[int]) -> None:
    def run() -> list[torch.Tensor]:
        shelf = Shelf(stage)
        orders = ((0, 1, 2, 3), (0, 2, 1, 3), (3, 1, 0), (0, 2, 1, 3))
        return [data_of(shelf.craft(ordered(parts, *order), question)) for order in orders]

    assert all(torch.equal(one, other) for one, other in zip(run(), run(), strict=True))


def test_stage_without_variants_leaves_none(stage: Stage, parts: Parts, question: list[int]) -> None:
    first, second = (Craft(RATIO).compose(stage, parts, question) for _ in range(2))
    assert first.recomputed == second.recomputed
    assert sum(second.recomputed) > 0
