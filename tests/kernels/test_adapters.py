"""All adapters of a projection in one pass, against the sum of B A x adapter by adapter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_kernels import AdapterStep, apply_adapters
from memos_kernels.adapters import reference
from memos_kernels.adapters.step import layout_of
from memos_kernels.workloads import POPULARITY, Matrices, adapter_step, popularity, random_tensor

pytestmark = pytest.mark.sampled(3)
Check = Callable[..., None]


class Shape(NamedTuple):
    """``tokens`` that use ``each`` adapters, or none at every ``base``-th; three modules whose ranks differ."""

    pattern: str
    tokens: int
    each: int
    base: int
    ranks: tuple[tuple[int, int, int], ...]
    chunks: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    width: int
    page_slots: int


MIXED = ((8, 8, 8), (1, 0, 3), (5, 4, 17), (0, 0, 2), (16, 2, 9))
SHAPES = [
    Shape("uniform", 9, 1, 4, MIXED, ((1, 3), (3, 1), (1, 1)), 64, 16),
    Shape("distinct", 5, 1, 0, MIXED, ((3, 1), (1, 2), (2, 2)), 48, 1),
    Shape("skewed", 5, 3, 3, MIXED, ((3, 8), (8, 3), (1, 1)), 6, 7),
    Shape("identical", 6, 2, 0, MIXED[:1], ((1, 1), (1, 5), (3, 1)), 80, 4),
    Shape("zipf", 130, 2, 5, MIXED, ((3, 1), (3, 8), (8, 3)), 192, 16),
    Shape("distinct", 65, 1, 0, MIXED, ((9, 24), (3, 3), (1, 2)), 64, 16),
    Shape("identical", 1, 1, 0, MIXED[2:3], ((3, 7), (1, 1), (2, 2)), 7, 16),
]


class Made(NamedTuple):
    """A step, its inputs for each module, and the matrices in the clear."""

    pool: torch.Tensor
    step: AdapterStep
    matrices: Matrices
    uses: list[list[tuple[int, float]]]
    x: list[torch.Tensor]
    out: list[torch.Tensor]


def made(shape: Shape, dtype: torch.dtype, *, seed: int = 0, order: int = 0) -> Made:
    """Return a step whose adapters have weights of both signs."""
    weights = random_tensor((shape.tokens, max(shape.each, 1)), seed=seed + 7).tolist()
    columns = [popularity(shape.pattern, shape.tokens, seed + at) for at in range(shape.each)]
    uses = [
        []
        if shape.base and t % shape.base == 0
        else [((columns[at][t] + at) % len(shape.ranks), weights[t][at]) for at in range(shape.each)]
        for t in range(shape.tokens)
    ]
    layout = {"page_slots": shape.page_slots, "seed": seed, "order": order}
    pool, step, matrices = adapter_step(shape.ranks, shape.chunks, shape.width, uses, dtype, **layout)
    x, out = (
        [random_tensor((shape.tokens, sides[side] * shape.width), dtype, seed + 3 + side) for sides in shape.chunks]
        for side in (0, 1)
    )
    return Made(pool, step, matrices, uses, x, out)


def applied(form: Any, case: Made, module: int, out: torch.Tensor | None = None) -> torch.Tensor:
    """Call a form, or the reference, on a copy of a module's output."""
    out = case.out[module].clone() if out is None else out
    call = reference.apply_adapters if form is None else lambda *all: form("adapters", "apply_adapters", *all)
    call(case.x[module], case.pool, case.step, module, out)
    return out


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reference_is_the_sum_of_products(shape: Shape) -> None:
    case = made(shape, torch.float32)
    for module in range(3):
        expected = case.out[module].double()
        for t, uses in enumerate(case.uses):
            for adapter, weight in uses:
                a, b = (matrix.double() for matrix in case.matrices[adapter][module])
                expected[t] += weight * (b @ (a @ case.x[module][t].double()))
        torch.testing.assert_close(applied(None, case, module).double(), expected, rtol=1e-4, atol=1e-3)


def test_every_module_matches_reference(
    form: Any, dtype: torch.dtype, shape: Shape, close: Check, guarded: Any
) -> None:
    case = made(shape, dtype)
    for module in range(3):
        actual = applied(form, case, module, guarded(case.out[module]))
        close(actual, applied(None, case, module), terms=18 * shape.each * case.x[module].shape[1])


def test_order_of_pages_does_not_matter(form: Any, dtype: torch.dtype, shape: Shape, same: Check) -> None:
    first, second = (made(shape, dtype, order=order) for order in (0, 5))
    for module in range(3):
        same(applied(form, first, module), applied(form, second, module))


def test_tokens_of_the_base_model_keep_their_bits(form: Any, dtype: torch.dtype, shape: Shape, same: Check) -> None:
    case = made(shape, dtype)
    base = torch.tensor([not uses for uses in case.uses])
    for module in range(3):
        case.out[module][base] = float("nan")
        out = applied(form, case, module)
        same(out[base], case.out[module][base])
        assert torch.isfinite(out[~base]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_token_gets_the_same_bits_alone_as_in_a_batch(dtype: torch.dtype, same: Check) -> None:
    case = made(SHAPES[4], dtype)
    for token in (1, 64, 129):
        step = case.step
        alone = AdapterStep(step.pages, step.places, step.ranks, step.chunks, step.page_slots, [case.uses[token]])
        for module in range(3):
            together, single = case.out[module].clone(), case.out[module][token : token + 1].clone()
            apply_adapters(case.x[module], case.pool, step, module, together)
            apply_adapters(case.x[module][token : token + 1].contiguous(), case.pool, alone, module, single)
            same(together[token : token + 1], single)


def test_first_groups_are_an_adapter_of_lower_rank(close: Check) -> None:
    """So a pool under pressure may drop the pages of the last ranks."""
    uses, chunks = [[(0, 1.0)]], [(2, 3), (1, 1)]
    pool, whole, matrices = adapter_step([(11, 6)], chunks, 16, uses)
    _, starts = layout_of(whole.ranks[0], whole.chunks)
    kept = -(-int(starts[1]) // whole.page_slots)
    ranks = np.minimum(whole.ranks, 4)
    fewer = AdapterStep(whole.pages[:, :kept].copy(), whole.places, ranks, whole.chunks, whole.page_slots, uses)
    x, out = random_tensor((1, 32)), torch.zeros(1, 48)
    apply_adapters(x, pool, fewer, 0, out)
    a, b = matrices[0][0]
    close(out, x @ a[:4].t() @ b[:, :4].t(), terms=32 * 4)


@settings(max_examples=settings().max_examples // 5)
@given(data=st.data())
def test_adapters_of_any_shape(form: Any, dtype: torch.dtype, close: Check, data: st.DataObject) -> None:
    rank = st.tuples(*[st.integers(0, 9)] * 3)
    chunk = st.tuples(st.integers(1, 4), st.integers(1, 4))
    shape = Shape(
        data.draw(st.sampled_from(POPULARITY)),
        data.draw(st.integers(1, 9)),
        data.draw(st.integers(0, 3)),
        data.draw(st.integers(0, 3)),
        tuple(data.draw(st.lists(rank, min_size=1, max_size=4))),
        (data.draw(chunk), data.draw(chunk), data.draw(chunk)),
        data.draw(st.integers(1, 20)),
        data.draw(st.integers(1, 20)),
    )
    if not any(map(any, shape.ranks)):
        return
    seed = data.draw(st.integers(0, 99))
    case = made(shape, dtype, seed=seed, order=seed)
    for module in range(3):
        close(applied(form, case, module), applied(None, case, module), terms=27 * (1 + case.x[module].shape[1]))


def changed(step: AdapterStep, **other: Any) -> AdapterStep:
    """Return a step with something else in it."""
    parts = {name: getattr(step, name) for name in ("pages", "places", "ranks", "chunks", "page_slots")}
    return AdapterStep(**{**parts, "uses": [[(0, 1.0)]], **other})


def test_step_refuses_what_reaches_beyond() -> None:
    _, step, _ = adapter_step([(4, 4)], [(1, 1), (2, 1)], 8, [[(0, 1.0)]])
    with pytest.raises(ValueError, match="beyond its pages"):
        changed(step, places=step.places + 1000)
    with pytest.raises(ValueError, match="beyond its pages"):
        changed(step, places=step.places - 1)
    with pytest.raises(ValueError, match="more groups"):
        changed(step, ranks=step.ranks + 1)
    with pytest.raises(ValueError, match="more groups"):
        changed(step, ranks=step.ranks - 5)
    with pytest.raises(ValueError, match=r"outside 0 \.\. 0"):
        changed(step, uses=[[(1, 1.0)]])
    with pytest.raises(ValueError, match="below 0"):
        changed(step, pages=step.pages - 100)
    with pytest.raises(ValueError, match="below 0"):
        changed(step, page_slots=0)
    with pytest.raises(ValueError, match="places must be int32"):
        changed(step, places=step.places.astype(np.int64))
    with pytest.raises(ValueError, match="chunks must be int32"):
        changed(step, chunks=step.chunks[:1].copy())


def test_call_refuses_what_does_not_fit() -> None:
    pool, step, _ = adapter_step([(4, 4)], [(1, 1), (2, 1)], 8, [[(0, 1.0)]])
    x, out = torch.zeros(1, 8), torch.zeros(1, 8)
    apply_adapters(x, pool, step, 0, out)
    bad: list[tuple[Any, ...]] = [
        (x, pool, step, 2, out),
        (x, pool, step, -1, out),
        (x, pool, step, 1, out),
        (torch.zeros(2, 8), pool, step, 0, out),
        (x, pool, step, 0, torch.zeros(1, 16)),
        (x, pool, step, 0, torch.zeros(8, 1).t()[:, ::2]),
        (x, pool.bfloat16(), step, 0, out),
        (x.bfloat16(), pool, step, 0, out),
        (x.double(), pool.double(), step, 0, out.double()),
        (x, pool[: -2 * step.page_slots], step, 0, out),
        (x, pool.view(-1), step, 0, out),
    ]
    for arguments in bad:
        with pytest.raises(ValueError, match=r"is|must|needed|outside"):
            apply_adapters(*arguments)
