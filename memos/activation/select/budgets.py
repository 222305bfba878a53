"""Dividing a budget of entries between layers and heads, to the entry."""

from __future__ import annotations

import torch

from memos.activation.kv import KVBlock


def each(kv: KVBlock, ratio: float) -> int:
    """Return the entries of a head that a share of it is, one at least."""
    return max(1, round(ratio * kv.tokens))


def total(kv: KVBlock, ratio: float) -> int:
    """Return the entries that a share of a cache is: whole tokens of all heads, one at least."""
    return each(kv, ratio) * kv.shape.layers * kv.shape.heads


def uniform(kv: KVBlock, ratio: float) -> torch.Tensor:
    """Return the same budget for each head, int64 ``[layers, heads]``."""
    return torch.full((kv.shape.layers, kv.shape.heads), each(kv, ratio))


def by_layer(kv: KVBlock, ratio: float, weights: torch.Tensor, least: int) -> torch.Tensor:
    """Return budgets ``[layers, heads]`` in proportion to the weights of layers ``[layers]``, equal within a layer."""
    layers, heads = kv.shape.layers, kv.shape.heads
    share = each(kv, ratio)
    found = apportioned(weights, layers * share, min(max(least, 1), share), kv.tokens)
    return found.unsqueeze(1).expand(layers, heads)


def apportioned(weights: torch.Tensor, amount: int, least: int, most: int) -> torch.Tensor:
    """Return whole numbers, int64 ``[n]``, that add up to ``amount`` and lie between ``least`` and ``most``.

    They are as near to proportional to ``weights`` ``[n]`` (not negative) as that allows: what is cut off at ``most``
    goes to the others, and what remains of rounding to the largest remainders. ``least * n <= amount <= most * n``.
    """
    shares = weights.double().clamp_min(1e-9)
    low, high = 0.0, float(2 * amount + most) / float(shares.min())
    for _ in range(200):  # the factor whose clipped products add up to the amount
        middle = (low + high) / 2
        if float((shares * middle).clamp(least, most).sum()) < amount:
            low = middle
        else:
            high = middle
    exact = (shares * high).clamp(least, most)
    whole = exact.floor().long()
    order = torch.argsort(exact - whole, descending=True, stable=True)
    order = order[whole[order] < most]
    whole[order[: amount - int(whole.sum())]] += 1
    return whole


def best(scores: torch.Tensor, budgets: torch.Tensor) -> torch.Tensor:
    """Return the ``budgets`` ``[..]`` highest of ``scores`` ``[.., tokens]`` as flags; of equals, the earlier."""
    order = torch.argsort(scores, dim=-1, descending=True, stable=True)
    taken = torch.arange(scores.shape[-1]) < budgets.unsqueeze(-1)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, taken)
