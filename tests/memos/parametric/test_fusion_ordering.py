"""Ranks in the order of their singular values, and what is left when the last ones go."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memos.errors import AdapterRefused, InvalidInput
from memos.parametric.adapter import Adapter, Factors
from memos.parametric.fusion.ordering import ordered, truncate

PLACE = (2, "mlp.down_proj")
ROUNDING = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}

sizes = st.tuples(st.integers(0, 1_000), st.integers(1, 9), st.sampled_from(list(ROUNDING)))


def make(seed: int, rank: int, dtype: torch.dtype, scaling: float = -3.0) -> Adapter:
    """Return a random adapter of one module, 14 to 8."""
    random = torch.Generator().manual_seed(seed)
    down, up = torch.randn(rank, 14, generator=random), torch.randn(8, rank, generator=random)
    return Adapter("model", {PLACE: Factors(down.to(dtype), up.to(dtype), scaling)})


def relative(made: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the relative Frobenius error."""
    return float((made - exact).norm() / exact.norm())


@given(sizes)
def test_ordered_is_equal_and_prefixes_are_the_best_of_their_rank(drawn: tuple[int, int, torch.dtype]) -> None:
    seed, rank, dtype = drawn
    adapter = make(seed, rank, dtype)
    exact = adapter.factors[PLACE].delta()
    made = ordered(adapter)
    factors = made.factors[PLACE]
    assert made.base == adapter.base
    assert (factors.rank, factors.down.dtype, factors.up.dtype) == (min(rank, 8), dtype, dtype)
    assert relative(factors.delta(), exact) < ROUNDING[dtype]
    singular = torch.linalg.svdvals(exact)
    for kept in range(1, factors.rank + 1):
        prefix = Factors(factors.down[:kept], factors.up[:, :kept], factors.scaling).delta()
        assert relative(prefix, exact) < float(singular[kept:].norm() / singular.norm()) + ROUNDING[dtype]


@given(sizes, st.integers(1, 10))
def test_truncated_is_the_best_of_its_rank(drawn: tuple[int, int, torch.dtype], rank: int) -> None:
    seed, full, dtype = drawn
    adapter = make(seed, full, dtype)
    exact = adapter.factors[PLACE].delta()
    made = truncate(adapter, rank).factors[PLACE]
    singular = torch.linalg.svdvals(exact)
    assert made.rank == min(rank, full, 8)
    assert made.down.is_contiguous()
    assert made.up.is_contiguous()
    assert abs(relative(made.delta(), exact) - float(singular[rank:].norm() / singular.norm())) < ROUNDING[dtype]


def test_truncated_is_the_prefix_of_ordered() -> None:
    adapter = make(5, 6, torch.bfloat16)
    whole, cut = ordered(adapter).factors[PLACE], truncate(adapter, 4).factors[PLACE]
    assert torch.equal(whole.down[:4], cut.down)
    assert torch.equal(whole.up[:, :4], cut.up)
    assert whole.scaling == cut.scaling


def test_an_adapter_that_adds_nothing_stays_so() -> None:
    fresh = Adapter("model", {PLACE: Factors(torch.randn(4, 14), torch.zeros(8, 4))})
    assert ordered(fresh).rank == 4
    assert not ordered(fresh).factors[PLACE].delta().any()


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_invalid(rank: int) -> None:
    with pytest.raises(InvalidInput, match="rank"):
        truncate(make(1, 4, torch.float32), rank)


def test_values_that_are_not_finite_are_refused() -> None:
    broken = make(1, 4, torch.float32)
    broken.factors[PLACE].down[0, 0] = torch.nan
    with pytest.raises(AdapterRefused, match="not finite"):
        ordered(broken)
