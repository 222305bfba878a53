"""What cannot be merged: typed errors, whatever the method."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from memos.errors import AdapterRefused, InvalidInput
from memos.parametric.adapter import Adapter, Factors
from memos.parametric.fusion.fuse import METHODS, fuse

PLACE = (0, "self_attn.q_proj")


def one(down: torch.Tensor, up: torch.Tensor, scaling: float = 1.0) -> Adapter:
    """Return an adapter of one module."""
    return Adapter("model", {PLACE: Factors(down, up, scaling)})


def make(seed: int, rank: int = 4, scaling: float = 1.0) -> Adapter:
    """Return a random adapter of one module, 12 to 10."""
    random = torch.Generator().manual_seed(seed)
    return one(torch.randn(rank, 12, generator=random), torch.randn(10, rank, generator=random), scaling)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf])
def test_weight_not_finite_is_invalid(weight: float) -> None:
    with pytest.raises(InvalidInput, match="not finite"):
        fuse([make(1), make(2)], [1.0, weight], "cat")


def test_nothing_to_fuse_is_invalid() -> None:
    for adapters, weights in (([], []), ([make(1)], [0.0]), ([Adapter("model", {})], [1.0])):
        with pytest.raises(InvalidInput, match="nothing to fuse"):
            fuse(adapters, weights, "cat")


def test_as_many_weights_as_adapters_are_needed() -> None:
    with pytest.raises(InvalidInput, match="1 weights for 2 adapters"):
        fuse([make(1), make(2)], [1.0], "cat")


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("average", {}),
        ("cat", {"rank": 4}),
        ("svd", {"rank": 0}),
        ("svd", {"rank": 2.5}),
        ("svd", {"rank": "4"}),
        ("svd", {"error": 1.0}),
        ("svd", {"error": math.nan}),
        ("ties", {"density": 0.0}),
        ("ties", {"density": 1.1}),
        ("ties", {"density": math.nan}),
        ("ties_svd", {"rank": -1}),
        ("ties_svd", {"rank": 0}),
        ("ties_svd", {"seed": 1}),
        ("dare_ties", {"density": "half"}),
        ("dare_linear", {"seed": -1}),
        ("dare_linear", {"seed": 1 << 64}),
        ("dare_linear", {"seed": 1.5}),
    ],
)
def test_unknown_methods_and_options_are_invalid(method: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        fuse([make(1), make(2)], [1.0, 1.0], method, **options)


def test_an_adapter_of_another_model_is_refused() -> None:
    with pytest.raises(AdapterRefused, match="different models"):
        fuse([make(1), dataclasses.replace(make(2), base="other")], [1.0, 1.0], "cat")


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_not_finite_are_refused(method: str, value: float) -> None:
    broken = make(2)
    broken.factors[PLACE].up[3, 1] = value
    with pytest.raises(AdapterRefused, match=r"layers\.0\.self_attn\.q_proj: an adapter holds values"):
        fuse([make(1), broken], [1.0, 1.0], method)


@pytest.mark.parametrize("method", ["svd", "ties_svd", "dare_linear_svd"])
def test_what_float32_cannot_hold_is_refused(method: str) -> None:
    huge = one(torch.full((2, 12), 1e30), torch.full((10, 2), 1e30))
    with pytest.raises(AdapterRefused, match="not finite"):
        fuse([huge, huge], [1.0, 1.0], method)


def test_a_result_that_its_dtype_cannot_hold_is_refused() -> None:
    large = one(torch.full((2, 12), 6e4, dtype=torch.float16), torch.ones(10, 2, dtype=torch.float16))
    with pytest.raises(AdapterRefused, match="result"):
        fuse([large, large], [1.0, 1.0], "linear")


@pytest.mark.parametrize("scaling", [math.inf, math.nan, 1e300])
def test_a_scaling_that_is_not_finite_is_refused(scaling: float) -> None:
    with pytest.raises(AdapterRefused, match="not finite"):
        fuse([make(1, scaling=scaling)], [1e300], "cat")


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "linear", "magnitude_prune", "ties"])
def test_unequal_ranks_are_refused_where_elements_are_merged(method: str) -> None:
    with pytest.raises(AdapterRefused, match=r"ranks \[2, 4\]"):
        fuse([make(1, rank=2), make(2, rank=4)], [1.0, 1.0], method)


def test_modules_of_different_sizes_are_refused() -> None:
    other = one(torch.ones(4, 13), torch.ones(10, 4))
    with pytest.raises(AdapterRefused, match="different sizes"):
        fuse([make(1), other], [1.0, 1.0], "cat")


@pytest.mark.parametrize(
    ("down", "up"), [((4, 12), (10, 5)), ((0, 12), (10, 0)), ((12,), (10, 4)), ((4, 12), (10, 4, 1))]
)
def test_factors_that_are_no_pair_are_refused(down: tuple[int, ...], up: tuple[int, ...]) -> None:
    with pytest.raises(AdapterRefused, match="no pair"):
        fuse([one(torch.ones(down), torch.ones(up))], [1.0], "cat")


def test_a_result_over_the_rank_limit_is_refused() -> None:
    adapters = [make(1), make(2)]
    assert fuse(adapters, [1, 1], "cat", max_rank=8).rank == 8
    with pytest.raises(AdapterRefused, match="rank 8, 7 are allowed"):
        fuse(adapters, [1, 1], "cat", max_rank=7)
