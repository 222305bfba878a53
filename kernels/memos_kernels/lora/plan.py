"""Which adapters each token of a step uses, sorted so that every adapter's rows are read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch


class RankRows(NamedTuple):
    """Where the rank rows of adapters are in a pool ``[slots, width]``.

    ``slots`` is int32 ``[rows, chunks]``: rank row ``r`` is the concatenation of ``pool[slots[r, c]]`` over ``c``.
    Adapter ``a`` has rows ``starts[a]`` to ``starts[a + 1] - 1`` (``starts`` int32 ``[adapters + 1]``), as many as its
    rank: no padding. For the *down* projection a row is a row of A, for the *up* projection a column of B.
    """

    slots: torch.Tensor
    starts: torch.Tensor


class LoraPlan(NamedTuple):
    """The uses of adapters by tokens, sorted by adapter, then by token.

    ``tokens``, ``adapters`` (int32 ``[uses]``) and ``weights`` (float32 ``[uses]``) describe each use; its part of the
    intermediate result is ``offsets[u]`` to ``offsets[u + 1] - 1`` (int32 ``[uses + 1]``), one place for each rank.
    ``segments`` (int32 ``[S + 1]``) are the runs of uses of one adapter. ``by_token`` (int32 ``[uses]``) lists the uses
    token by token, those of token ``t`` from ``token_starts[t]`` (int32 ``[T + 1]``). ``ranks`` is
    the length of the intermediate result.
    """

    tokens: torch.Tensor
    adapters: torch.Tensor
    weights: torch.Tensor
    offsets: torch.Tensor
    segments: torch.Tensor
    by_token: torch.Tensor
    token_starts: torch.Tensor
    ranks: int

    def to(self, device: str | torch.device) -> LoraPlan:
        """Return the plan on another device."""
        return LoraPlan(
            self.tokens.to(device),
            self.adapters.to(device),
            self.weights.to(device),
            self.offsets.to(device),
            self.segments.to(device),
            self.by_token.to(device),
            self.token_starts.to(device),
            self.ranks,
        )


def plan_lora(uses: Sequence[Sequence[tuple[int, float]]], starts: torch.Tensor) -> LoraPlan:
    """Plan a step. ``uses[t]`` lists the adapters of token ``t`` with their weights (LoRA's alpha / r among them).

    None for a row of the base model alone, several for an exact sum of adapters, unmerged. ``starts`` is that of
    :class:`RankRows`, on the CPU. Raises ``ValueError`` for an adapter that is not there.
    """
    counts = np.array([len(each) for each in uses], np.int32)
    tokens = np.repeat(np.arange(len(uses), dtype=np.int32), counts)
    flat = [use for each in uses for use in each]
    adapters = np.array([adapter for adapter, _ in flat], np.int32)
    weights = np.array([weight for _, weight in flat], np.float32)
    bounds = starts.numpy()
    if len(flat) and (adapters.min() < 0 or adapters.max() >= len(bounds) - 1):
        raise ValueError(f"an adapter outside 0 .. {len(bounds) - 2}")
    order = np.argsort(adapters, kind="stable")
    adapters, ranks = adapters[order], np.diff(bounds)[adapters[order]]
    changes = np.flatnonzero(np.diff(adapters)) + 1
    edges = np.concatenate([[0], changes, [len(flat)]]) if len(flat) else np.zeros(1)
    return LoraPlan(
        _int32(tokens[order]),
        _int32(adapters),
        torch.from_numpy(weights[order]),
        _int32(np.concatenate([[0], np.cumsum(ranks)])),
        _int32(edges),
        _int32(np.argsort(order, kind="stable")),
        _int32(np.concatenate([[0], np.cumsum(counts)])),
        int(ranks.sum()),
    )


def _int32(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.int32))
