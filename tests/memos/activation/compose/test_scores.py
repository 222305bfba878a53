"""Chunk scores against sums written out, on tensors small enough for that."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from memos.activation.compose.scores import Paid, disorder, fit, overlap
from memos.runtime.scattered import Scattered, Weighed

HEADS, KV_HEADS, TOKENS, DIM, SCALING = 4, 2, 150, 8, 0.3
EDGES = (5, 40, 90, 150)  # a head of five tokens, and three bundles


def random(*size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(sum(size)))


def slow_attention(query: torch.Tensor, keys: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The weights of ``query`` ``[heads, n, D]`` at ``rows``, averaged over heads, ``[n, tokens]``."""
    mean = torch.zeros(len(rows), TOKENS)
    for head in range(HEADS):
        for number, row in enumerate(rows.tolist()):
            scores = keys[head // (HEADS // KV_HEADS), : row + 1] @ query[head, number] * SCALING
            mean[number, : row + 1] += scores.softmax(0) / HEADS
    return mean


def test_weighed_rows_find_what_others_do_and_tell_what_they_pay() -> None:
    rows = torch.cat([torch.arange(40, 150, 3), torch.arange(100, 140)]).unique()  # more than attend together
    cache = random(2, 2, KV_HEADS, TOKENS, DIM)
    weighed, plain = Weighed(cache.clone(), rows, torch.tensor(EDGES)), Scattered(cache.clone(), rows)
    expected = torch.zeros(len(rows), len(EDGES) - 1)
    for layer in range(2):
        query = random(HEADS, len(rows), DIM) + layer
        key, value = random(KV_HEADS, len(rows), DIM) * layer, random(KV_HEADS, len(rows), DIM) - layer
        found = weighed.attend(layer, query, key, value, SCALING)
        assert torch.allclose(found, plain.attend(layer, query, key, value, SCALING), atol=1e-5)
        keys = cache[layer, 0].clone()
        keys[:, rows] = key
        weights = slow_attention(query, keys, rows)
        for bundle, (first, last) in enumerate(pairwise(EDGES)):
            expected[:, bundle] += weights[:, first:last].sum(1)
    assert torch.allclose(weighed.paid, expected, atol=1e-5)


def test_scores_are_those_of_the_paper() -> None:
    count, sizes = 60, (35, 50)
    weights = random(count, sum(sizes) + count).abs()  # of the last bundle's tokens, to the two before it and itself
    before = torch.stack([weights[:, :35].sum(1), weights[:, 35:85].sum(1)], 1)
    paid = Paid(before, weights[:, 85:].tril().sum(1), sizes)
    a = b = 0.0
    inter = [0.0, 0.0]
    for row in range(count):
        for column in range(sum(sizes)):
            bundle = int(column >= sizes[0])
            inter[bundle] += float(weights[row, column])
            a += float(weights[row, column]) / (count * sizes[bundle])
        b += sum(float(weights[row, 85 + column]) for column in range(row + 1)) / count**2
    assert paid.impact == pytest.approx(1 / (1 + math.exp(-a / b)), rel=1e-5)
    assert overlap(paid, ("x", "y"), ("z", "x")) == pytest.approx(inter[0] / sum(inter), rel=1e-5)
    assert fit(paid, ("x", "y"), ("y", "x")) == 0.0  # every pair stands the other way round
    assert fit(paid, ("x", "y"), ("x", "y")) == fit(paid, ("x", "y"), ("x", "z", "y")) == 1.0
    assert fit(paid, ("x", "y"), ("z",)) == 0.0


@pytest.mark.parametrize(
    ("old", "new", "share"),
    [("abcd", "abcd", 0), ("abcd", "dcba", 1), ("abcd", "acbd", 1 / 6), ("abcx", "ycab", 2 / 3), ("a", "b", 0)],
)
def test_disorder_counts_discordant_pairs(old: str, new: str, share: float) -> None:
    assert disorder(old, new) == pytest.approx(share)


def test_nothing_paid_to_the_context_leaves_nothing_to_mend() -> None:
    paid = Paid(torch.zeros(3, 1), torch.ones(3), (7,))
    assert (paid.impact, overlap(paid, ("x",), ("y",))) == (0.5, 1.0)
