"""Adapters over pages of rank rows, against the sum of B A x that PEFT computes adapter by adapter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_kernels import LoraPlan, RankRows, plan_lora
from memos_kernels.lora import reference
from memos_kernels.workloads import POPULARITY, popularity, random_tensor, rank_rows

pytestmark = pytest.mark.sampled(3)
Check = Callable[..., None]


class Shape(NamedTuple):
    """A step of ``tokens`` that use ``each`` adapters, or none at every ``base``-th; and two projections.

    ``down`` and ``up`` are chunks and width of a row of A and of a column of B.
    """

    pattern: str
    tokens: int
    each: int
    base: int
    ranks: tuple[int, ...]
    down: tuple[int, int]
    up: tuple[int, int]


MIXED = (1, 17, 8, 3, 5, 16, 2, 9, 4, 13, 7, 1)
SHAPES = [
    Shape("uniform", 9, 1, 4, (8, 3, 1, 17), (1, 64), (3, 64)),
    Shape("distinct", 5, 1, 0, MIXED, (3, 48), (1, 48)),
    Shape("identical", 16, 2, 0, (5, 9), (1, 80), (1, 6)),
    Shape("skewed", 5, 3, 3, MIXED, (3, 6), (8, 6)),
    Shape("zipf", 7, 2, 5, MIXED, (8, 16), (1, 64)),
    Shape("identical", 1, 1, 0, (17,), (1, 7), (3, 7)),
    Shape("zipf", 64, 1, 0, MIXED, (3, 64), (3, 64)),
    Shape("distinct", 40, 3, 7, MIXED, (8, 48), (3, 80)),
    Shape("skewed", 130, 2, 2, MIXED, (1, 576), (1, 576)),
    Shape("uniform", 130, 1, 0, (8,) * 12, (9, 64), (24, 64)),
    Shape("identical", 130, 1, 9, (4,), (3, 80), (8, 6)),
    Shape("distinct", 37, 1, 1, MIXED, (1, 48), (1, 48)),
]


class Step(NamedTuple):
    """All that a step needs, and the matrices in the clear."""

    x: torch.Tensor
    down_pool: torch.Tensor
    down: RankRows
    up_pool: torch.Tensor
    up: RankRows
    plan: LoraPlan
    out: torch.Tensor
    uses: list[list[tuple[int, float]]]
    matrices: list[tuple[torch.Tensor, torch.Tensor]]


def uses_of(shape: Shape, seed: int) -> list[list[tuple[int, float]]]:
    """Return which adapters each token uses, with weights of both signs."""
    weights = random_tensor((shape.tokens, max(shape.each, 1)), seed=seed + 7).tolist()
    columns = [popularity(shape.pattern, shape.tokens, seed + at) for at in range(shape.each)]
    return [
        []
        if shape.base and t % shape.base == 0
        else [((columns[at][t] + at) % len(shape.ranks), weights[t][at]) for at in range(shape.each)]
        for t in range(shape.tokens)
    ]


def made(shape: Shape, dtype: torch.dtype, seed: int = 0, order: int = 0) -> Step:
    """Return a step; slots that no adapter owns are not numbers."""
    uses = uses_of(shape, seed)
    down_pool, down, a = rank_rows(shape.ranks, *shape.down, dtype, seed=seed + 1, order=order)
    up_pool, up, b = rank_rows(shape.ranks, *shape.up, dtype, seed=seed + 2, order=order + 1)
    x = random_tensor((shape.tokens, np.prod(shape.down).item()), dtype, seed + 3)
    out = random_tensor((shape.tokens, np.prod(shape.up).item()), dtype, seed + 4)
    return Step(x, down_pool, down, up_pool, up, plan_lora(uses, down.starts), out, uses, list(zip(a, b, strict=True)))


def shrink(form: Any, step: Step) -> torch.Tensor:
    """Call a form, or the reference."""
    call = reference.lora_shrink if form is None else lambda *all: form("lora", "lora_shrink", *all)
    result: torch.Tensor = call(step.x, step.down_pool, step.down, step.plan)
    return result


def expand(form: Any, step: Step, y: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Call a form, or the reference, on a copy of the step's output."""
    out = step.out.clone() if out is None else out
    call = reference.lora_expand if form is None else lambda *all: form("lora", "lora_expand", *all)
    call(y, step.up_pool, step.up, step.plan, out)
    return out


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reference_is_the_sum_of_products(shape: Shape) -> None:
    step = made(shape, torch.float32)
    actual = expand(None, step, shrink(None, step)).double()
    expected = step.out.double()
    for t, uses in enumerate(step.uses):
        for adapter, weight in uses:
            a, b = (matrix.double() for matrix in step.matrices[adapter])
            expected[t] += weight * (b.t() @ (a @ step.x[t].double()))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-3)


def test_two_adapters_by_hand(form: Any, dtype: torch.dtype) -> None:
    pool = torch.tensor([[1, 0], [0, 1], [2, 2], [3, 0], [5, 7]]).to(dtype)
    starts = torch.tensor([0, 1, 3], dtype=torch.int32)
    down = RankRows(torch.tensor([[2], [0], [1]], dtype=torch.int32), starts)
    up = RankRows(torch.tensor([[0], [3], [1]], dtype=torch.int32), starts)
    plan = plan_lora([[(1, 1.0), (0, 0.5)], []], starts)
    x, out = torch.tensor([[3, 4], [9, 9]]).to(dtype), torch.tensor([[1, 1], [6, 6]]).to(dtype)
    y = form("lora", "lora_shrink", x, pool, down, plan)
    assert y.tolist() == [14, 3, 4]
    form("lora", "lora_expand", y, pool, up, plan, out)
    assert out.tolist() == [[1 + 7 + 9, 1 + 4], [6, 6]]


def test_shrink_matches_reference(form: Any, dtype: torch.dtype, shape: Shape, close: Check) -> None:
    step = made(shape, dtype)
    y = shrink(form, step)
    assert y.dtype == torch.float32
    close(y, shrink(None, step), terms=step.x.shape[1])


def test_expand_matches_reference(form: Any, dtype: torch.dtype, shape: Shape, close: Check, guarded: Any) -> None:
    step = made(shape, dtype)
    y = random_tensor((step.plan.ranks,))
    terms = max(shape.ranks) * max(shape.each, 1)
    close(expand(form, step, y, guarded(step.out)), expand(None, step, y), terms=terms)


def test_tokens_of_the_base_model_keep_their_bits(
    form: Any, dtype: torch.dtype, shape: Shape, same: Check, guarded: Any
) -> None:
    step = made(shape, dtype)
    base = torch.tensor([not uses for uses in step.uses])
    step.out[base] = float("nan")
    step.out[base, ::2] = -0.0  # which 0 cannot be added to
    out = expand(form, step, random_tensor((step.plan.ranks,)), guarded(step.out))
    same(out[base], step.out[base])
    assert torch.isfinite(out[~base]).all()


def test_order_of_rows_in_the_pool_does_not_matter(form: Any, dtype: torch.dtype, shape: Shape, same: Check) -> None:
    first, second = (made(shape, dtype, order=order) for order in (0, 5))
    y = shrink(form, first)
    same(y, shrink(form, second))
    same(expand(form, first, y), expand(form, second, y))


@pytest.mark.parametrize("pattern", POPULARITY)
def test_every_popularity_matches_reference(form: Any, pattern: str, close: Check) -> None:
    step = made(Shape(pattern, 10, 2, 6, MIXED, (3, 16), (1, 48)), torch.float32)
    y = shrink(form, step)
    close(y, shrink(None, step), terms=48)
    close(expand(form, step, y), expand(None, step, y), terms=17 * 48)


@pytest.mark.parametrize("uses", [[], [[], [], []]], ids=["no tokens", "base model only"])
def test_step_without_adapters_changes_nothing(form: Any, same: Check, uses: list[list[tuple[int, float]]]) -> None:
    pool, rows, _ = rank_rows((3, 5), 1, 16)
    plan, x = plan_lora(uses, rows.starts), random_tensor((len(uses), 16))
    y = form("lora", "lora_shrink", x, pool, rows, plan)
    out = x.clone()
    form("lora", "lora_expand", y, pool, rows, plan, out)
    assert y.shape == (0,)
    same(out, x)


def test_adapter_of_rank_zero_says_nothing(form: Any, close: Check) -> None:
    pool, rows, _ = rank_rows((3, 0, 5), 1, 16)
    x = random_tensor((3, 16))
    with_it, without = (plan_lora([[(0, 1.0), *zero], [(2, 1.0)], zero], rows.starts) for zero in ([(1, 2.0)], []))
    out = [form("lora", "lora_shrink", x, pool, rows, plan) for plan in (with_it, without)]
    close(out[0], out[1])
    totals = [x.clone(), x.clone()]
    for plan, y, total in zip((with_it, without), out, totals, strict=True):
        form("lora", "lora_expand", y, pool, rows, plan, total)
    close(totals[0], totals[1])


def test_plan_sorts_uses_by_adapter_and_finds_them_by_token() -> None:
    starts = torch.tensor([0, 2, 5, 6], dtype=torch.int32)
    plan = plan_lora([[(2, 0.5)], [], [(0, 1.0), (2, 2.0)], [(2, 3.0)]], starts)
    assert plan.tokens.tolist() == [2, 0, 2, 3]
    assert plan.adapters.tolist() == [0, 2, 2, 2]
    assert plan.weights.tolist() == [1.0, 0.5, 2.0, 3.0]
    assert plan.offsets.tolist() == [0, 2, 3, 4, 5]
    assert plan.segments.tolist() == [0, 1, 4]
    assert plan.by_token.tolist() == [1, 0, 2, 3]
    assert plan.token_starts.tolist() == [0, 1, 1, 3, 4]
    assert plan.ranks == 5
    for part, copy in zip(plan, plan.to("cpu"), strict=True):
        assert torch.equal(torch.as_tensor(part), torch.as_tensor(copy))


@pytest.mark.parametrize("adapter", [-1, 3])
def test_plan_refuses_an_adapter_that_is_not_there(adapter: int) -> None:
    with pytest.raises(ValueError, match=r"outside 0 \.\. 2"):
        plan_lora([[(0, 1.0)], [(adapter, 1.0)]], torch.tensor([0, 2, 5, 6], dtype=torch.int32))


@settings(max_examples=settings().max_examples // 5)
@given(data=st.data())
def test_adapters_of_any_shape(form: Any, dtype: torch.dtype, close: Check, data: st.DataObject) -> None:
    ranks = tuple(data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=5)))
    down, up = ((data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))) for _ in range(2))
    pattern = data.draw(st.sampled_from(POPULARITY))
    sizes = data.draw(st.integers(1, 9)), data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))
    shape, seed = Shape(pattern, *sizes, ranks, down, up), data.draw(st.integers(0, 99))
    step = made(shape, dtype, seed, seed)
    y = shrink(None, step)
    close(shrink(form, step), y, terms=step.x.shape[1])
    close(expand(form, step, y), expand(None, step, y), terms=18 * step.x.shape[1])
