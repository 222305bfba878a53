"""Choosing tokens from logits."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch

from memos.errors import InvalidInput
from memos.runtime.sampling import Sampler, Sampling

LOGITS = torch.tensor([0.1, 0.5, 0.15, 0.25]).log()


def draws(count: int = 4000, **options: Any) -> Counter[int]:
    sampler = Sampler(Sampling(seed=3, **options))
    return Counter(sampler.choose(LOGITS) for _ in range(count))


def test_greedy_takes_the_best() -> None:
    assert draws(5) == {1: 5}


def test_draws_follow_the_distribution() -> None:
    found = draws(temperature=1.0)
    for token, chance in enumerate((0.1, 0.5, 0.15, 0.25)):
        assert found[token] / 4000 == pytest.approx(chance, abs=0.03)


def test_low_temperature_sharpens() -> None:
    assert draws(temperature=0.05)[1] == 4000


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, {1}), (0.51, {1, 3}), (0.9, {1, 3, 2}), (1e-9, {1})])
def test_nucleus_is_the_smallest_set_that_reaches_top_p(top_p: float, kept: set[int]) -> None:
    assert set(draws(temperature=1.0, top_p=top_p)) == kept


def test_top_k_keeps_the_best() -> None:
    assert set(draws(temperature=3.0, top_k=2)) == {1, 3}


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": "hot"},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_p": math.nan},
        {"top_k": 0},
        {"top_k": 1.5},
        {"top_k": True},
        {"seed": -1},
        {"seed": 1 << 63},
    ],
)
def test_impossible_sampling_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(options))):
        Sampling(**options)
