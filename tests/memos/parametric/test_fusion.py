"""What has to hold for merged adapters whatever they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memos.parametric.adapter import Adapter, Factors
from memos.parametric.fusion.fuse import METHODS, fuse

PLACE = (0, "self_attn.q_proj")
SIZES = {"self_attn.q_proj": (12, 10), "mlp.up_proj": (12, 20), "mlp.down_proj": (20, 12)}
SEEDS = st.integers(0, 1_000)
WEIGHTS = st.floats(0.05, 3) | st.floats(-3, -0.05)


def make(
    seed: int, rank: int = 4, scaling: float = 1.0, dtype: torch.dtype = torch.float32, names: Sequence[str] = ()
) -> Adapter:
    """Return a random adapter on layer 0, of some projections or all."""
    random = torch.Generator().manual_seed(seed)
    factors = {}
    for name in names or SIZES:
        inputs, outputs = SIZES[name]
        down = torch.randn(rank, inputs, generator=random).to(dtype)
        factors[0, name] = Factors(down, torch.randn(outputs, rank, generator=random).to(dtype), scaling)
    return Adapter("model", factors)


def one(down: torch.Tensor, up: torch.Tensor, scaling: float = 1.0) -> Adapter:
    """Return an adapter of one module."""
    return Adapter("model", {PLACE: Factors(down, up, scaling)})


def exact_sum(adapters: Sequence[Adapter], weights: Sequence[float]) -> dict[tuple[int, str], torch.Tensor]:
    """Return the float64 sum of what adapters add, module by module."""
    total: dict[tuple[int, str], torch.Tensor] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for place, each in adapter.factors.items():
            delta = weight * each.scaling * (each.up.double() @ each.down.double())
            total[place] = total.get(place, torch.zeros_like(delta)) + delta
    return total


def error(made: Adapter, exact: dict[tuple[int, str], torch.Tensor]) -> float:
    """Return the largest relative error of a module."""
    assert made.factors.keys() == exact.keys()
    return max(float((made.factors[place].delta() - whole).norm() / whole.norm()) for place, whole in exact.items())


mixed = st.lists(st.tuples(SEEDS, st.integers(1, 6), st.floats(0.1, 10), WEIGHTS), min_size=1, max_size=5)


@given(mixed)
def test_cat_is_exact(drawn: list[tuple[int, int, float, float]]) -> None:
    adapters = [make(seed + 1_001 * place, rank, scaling) for place, (seed, rank, scaling, _) in enumerate(drawn)]
    weights = [weight for *_, weight in drawn]
    made = fuse(adapters, weights, "cat")
    assert made.rank == sum(adapter.rank for adapter in adapters)
    assert error(made, exact_sum(adapters, weights)) < 1e-5


@given(mixed)
def test_svd_of_full_rank_is_exact(drawn: list[tuple[int, int, float, float]]) -> None:
    adapters = [make(seed + 1_001 * place, rank, scaling) for place, (seed, rank, scaling, _) in enumerate(drawn)]
    weights = [weight for *_, weight in drawn]
    assert error(fuse(adapters, weights, "svd", rank=30), exact_sum(adapters, weights)) < 1e-5


@given(mixed, st.integers(1, 8))
def test_svd_error_is_that_of_the_dense_svd(drawn: list[tuple[int, int, float, float]], rank: int) -> None:
    adapters = [make(seed + 1_001 * place, r, scaling) for place, (seed, r, scaling, _) in enumerate(drawn)]
    weights = [weight for *_, weight in drawn]
    made = fuse(adapters, weights, "svd", rank=rank)
    for place, whole in exact_sum(adapters, weights).items():
        singular = torch.linalg.svdvals(whole)
        least = float(singular[rank:].norm() / singular.norm())
        assert abs(error(Adapter("", {place: made.factors[place]}), {place: whole}) - least) < 1e-5


@given(st.lists(SEEDS, min_size=2, max_size=4, unique=True), st.floats(0, 0.9))
def test_svd_by_error_keeps_the_least_rank_that_reaches_it(seeds: list[int], allowed: float) -> None:
    adapters = [make(seed) for seed in seeds]
    weights = [1.0] * len(seeds)
    made = fuse(adapters, weights, "svd", error=allowed)
    for place, whole in exact_sum(adapters, weights).items():
        singular = torch.linalg.svdvals(whole)
        kept = made.factors[place].rank
        assert float(singular[kept:].norm() / singular.norm()) <= allowed + 1e-5
        assert kept == 1 or float(singular[kept - 1 :].norm() / singular.norm()) > allowed - 1e-5


def test_svd_by_error_and_rank_keeps_the_less_of_both() -> None:
    adapters = [make(1), make(2)]
    assert fuse(adapters, [1, 1], "svd", error=0.0, rank=3).rank == 3
    assert fuse(adapters, [1, 1], "svd", error=0.9, rank=8).rank == 1


@given(
    st.lists(st.tuples(SEEDS, st.sampled_from([-1.0, 0.1, 0.2, 0.3])), min_size=2, max_size=4),
    st.randoms(use_true_random=False),
    st.sampled_from([0.3, 1.0]),
    st.sampled_from(["ties", "ties_svd"]),
)
def test_ties_does_not_depend_on_the_order(
    drawn: list[tuple[int, float]], shuffling: Any, density: float, method: str
) -> None:
    # Small whole numbers, and weights whose sums round: votes are tied often.
    pairs = [
        (one(make(seed).factors[PLACE].down.mul(2).round(), make(seed).factors[PLACE].up.mul(2).round()), weight)
        for seed, weight in drawn
    ]
    shuffled = list(pairs)
    shuffling.shuffle(shuffled)
    first, second = (
        fuse([adapter for adapter, _ in order], [weight for _, weight in order], method, density=density)
        .factors[PLACE]
        .delta()
        for order in (pairs, shuffled)
    )
    assert torch.allclose(first, second, rtol=1e-4, atol=1e-4)


def test_ties_keeps_what_agrees_with_the_larger_sum() -> None:
    ups = [torch.tensor([[4.0], [1.0], [0.0]]), torch.tensor([[2.0], [-3.0], [0.0]])]
    made = fuse([one(torch.ones(1, 1), up) for up in ups], [1, 1], "ties", density=1.0)
    assert torch.allclose(made.factors[PLACE].delta(), torch.tensor([[3.0], [-3.0], [0.0]]))


def test_ties_lets_a_large_scaling_outvote_a_small_one() -> None:
    adapters = [one(torch.ones(1, 2), torch.ones(3, 1), 10.0), one(torch.ones(1, 2), -2 * torch.ones(3, 1), 0.1)]
    made = fuse(adapters, [1, 1], "ties_svd", density=1.0)
    assert torch.allclose(made.factors[PLACE].delta(), torch.full((3, 2), 10.0))
    assert (fuse(adapters, [1, 1], "ties", density=1.0).factors[PLACE].delta() > 0).all()


def test_dare_repeats_itself_and_is_right_on_average() -> None:
    adapters = [make(1), make(2)]
    exact = exact_sum(adapters, [1, 1])
    first, again, other = (fuse(adapters, [1, 1], "dare_linear_svd", rank=8, seed=seed) for seed in (5, 5, 6))
    assert first.digest == again.digest != other.digest
    draws = [fuse(adapters, [1, 1], "dare_linear_svd", rank=12, density=0.8, seed=seed) for seed in range(300)]
    mean = torch.stack([draw.factors[PLACE].delta() for draw in draws]).mean(0)
    assert float((mean - exact[PLACE]).norm() / exact[PLACE].norm()) < 0.15


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "linear", "magnitude_prune", "ties"])
def test_merging_one_adapter_whole_gives_it_back(method: str) -> None:
    options: dict[str, Any] = {} if method == "linear" else {"density": 1.0}
    adapter = make(1, scaling=-2.0)
    assert error(fuse([adapter], [0.5], method, **options), exact_sum([adapter], [0.5])) < 1e-6


@pytest.mark.parametrize("method", ["dare_linear", "linear", "magnitude_prune"])
def test_merging_factors_brings_cross_terms_in(method: str) -> None:
    options: dict[str, Any] = {} if method == "linear" else {"density": 1.0}
    adapters = [make(1), make(2)]
    total = exact_sum(adapters, [1, 1])[PLACE]
    (a, b) = (adapter.factors[PLACE] for adapter in adapters)
    made = fuse(adapters, [1, 1], method, **options).factors[PLACE].delta()
    assert torch.allclose(made.double(), total + (a.up @ b.down + b.up @ a.down).double(), atol=1e-4)


@pytest.mark.parametrize("method", ["dare_linear_svd", "magnitude_prune_svd"])
def test_merging_deltas_whole_is_the_svd(method: str) -> None:
    adapters = [make(1, rank=2), make(2, rank=5)]
    made, svd = fuse(adapters, [1, -2], method, density=1.0, rank=3), fuse(adapters, [1, -2], "svd", rank=3)
    for place in svd.factors:
        assert torch.allclose(made.factors[place].delta(), svd.factors[place].delta(), atol=2e-2)


# ------------------------------------------------------------ adapters that differ


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_merges_adapters_of_other_modules_scalings_and_dtypes(method: str) -> None:
    first = make(1, scaling=0.25, dtype=torch.bfloat16, names=["self_attn.q_proj", "mlp.up_proj"])
    second = make(2, scaling=16.0, dtype=torch.float16, names=["mlp.up_proj", "mlp.down_proj"])
    made = fuse([first, second], [1.0, -0.5], method)
    dtypes = {name: factors.down.dtype for (_, name), factors in made.factors.items()}
    assert dtypes == {
        "self_attn.q_proj": torch.bfloat16,
        "mlp.up_proj": torch.float32,
        "mlp.down_proj": torch.float16,
    }
    for factors in made.factors.values():
        assert factors.up.dtype == factors.down.dtype
        assert factors.up.is_contiguous()
        assert factors.down.is_contiguous()
        assert factors.delta().isfinite().all()


def test_cat_is_exact_in_bfloat16_where_scalings_are_powers_of_two_apart() -> None:
    adapters = [make(1, 2, 0.3, torch.bfloat16), make(2, 4, 0.3, torch.bfloat16)]
    made = fuse(adapters, [1.0, -0.25], "cat")
    assert made.factors[PLACE].down.dtype == torch.bfloat16
    assert error(made, exact_sum(adapters, [1.0, -0.25])) < 1e-6


def test_svd_does_not_overflow_float16() -> None:
    adapters = [make(seed, scaling=1e6, dtype=torch.float16) for seed in range(3)]
    made = fuse(adapters, [1e3, 1e3, 1e3], "svd", rank=12)
    assert error(made, exact_sum(adapters, [1e3] * 3)) < 5e-3


@pytest.mark.parametrize("method", sorted(METHODS))
def test_adapters_that_add_nothing_merge_to_nothing(method: str) -> None:
    fresh = one(torch.randn(4, 12), torch.zeros(10, 4))
    assert not fuse([fresh, fresh], [1, 1], method).factors[PLACE].delta().any()


def test_an_adapter_of_weight_zero_does_not_count() -> None:
    adapters = [make(1), make(2, rank=7)]
    assert fuse(adapters, [1.0, 0.0], "linear").digest == fuse(adapters[:1], [1.0], "linear").digest
