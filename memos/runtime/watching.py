"""Noting what policies need of a prompt's queries, while the prompt runs and its rows are at hand."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch

from memos.activation.kv import KVShape
from memos.activation.seen import TAIL, Need, Seen, attention_of
from memos.activation.select.base import SINKS
from memos_kernels import delta_angles, rotate_keys, token_scores

#: Rows of which all weights are in memory at once.
_ROWS = 128
#: A row attends to a token if that gets at least this share of it (LazyEviction's threshold).
_ATTENDS = 0.01


class Watcher:
    """Notes what ``needs`` names of one sequence of ``tokens``; for copying heads, one that repeats every ``period``.

    Rows beyond ``tokens`` are of a second reading. ``frequencies`` are the model's, of its rotary embedding.
    """

    def __init__(
        self, needs: Collection[Need], shape: KVShape, tokens: int, frequencies: torch.Tensor, period: int = 0
    ) -> None:
        self._needs = frozenset(needs)
        self._shape = shape
        self._tokens = tokens
        self._period = period
        self._rows = [0] * shape.layers
        self._scaling = 0.0
        self._frequencies = frequencies.detach().float().cpu()
        self._tail: list[list[torch.Tensor]] = [[] for _ in range(shape.layers)]
        size = (shape.layers, shape.heads, tokens)
        self._mass = torch.zeros(size)
        self._last, self._gap = torch.full(size, -1.0), torch.zeros(size)
        self._sums: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        #: Rows at the start that moments leave out: queries of sinks are like no other's (ExpectedAttention's code).
        self._unusual = SINKS if tokens > SINKS else 0
        self._copying = torch.zeros(shape.layers, shape.heads)
        self._read = torch.zeros(size)

    def see(self, layer: int, query: torch.Tensor, first: int, pool: torch.Tensor, table: torch.Tensor) -> None:
        """Note rows of a layer, ``[n, heads, head_dim]`` from position ``first`` on, once, should they run again.

        The keys up to their last lie in pages ``table`` ``[blocks]`` of ``pool``; the scaling has been set.
        """
        again = max(self._rows[layer] - first, 0)
        query, first = query[again:], first + again
        if not len(query):
            return
        self._rows[layer] = first + len(query)
        own = max(self._tokens - first, 0)
        if len(query) > own:
            self._see_again(layer, query[own:], first + own, pool, table)
        if own:
            self._see_own(layer, query[:own], first, pool, table)

    def _see_own(self, layer: int, query: torch.Tensor, first: int, pool: torch.Tensor, table: torch.Tensor) -> None:
        if Need.TAIL in self._needs:
            self._tail[layer].append(query[max(self._tokens - TAIL - first, 0) :].float().cpu())
        if Need.MASS in self._needs:
            sums = token_scores(query, pool, table, first + len(query), scaling=self._scaling).cpu()
            self._mass[layer, :, : sums.shape[1]] += sums.unflatten(0, (self._shape.heads, -1)).mean(1)
        if Need.MOMENTS in self._needs:
            self._see_moments(layer, query.float().cpu(), first)
        if self._needs & {Need.RECURRENCE, Need.COPYING}:
            for start, weights in self._weights(query, first, pool, table):
                self._see_weights(layer, start, weights.mean(1).cpu())

    def _see_again(self, layer: int, query: torch.Tensor, first: int, pool: torch.Tensor, table: torch.Tensor) -> None:
        for _, weights in self._weights(query, first, pool, table):
            most = weights[..., : self._tokens].amax((1, 2)).cpu()
            self._read[layer] = torch.maximum(self._read[layer], most)

    def scale(self, scaling: float) -> None:
        """Tell the model's factor of scores."""
        self._scaling = scaling

    def seen(self) -> Seen:
        """Return what was noted of all rows."""
        needs = self._needs
        means, covariances = self._moments() if Need.MOMENTS in needs else (None, None)
        recurrence = Need.RECURRENCE in needs
        return Seen(
            scaling=self._scaling,
            frequencies=self._frequencies,
            tail=torch.stack([torch.cat(rows).transpose(0, 1) for rows in self._tail]) if Need.TAIL in needs else None,
            mass=self._mass if Need.MASS in needs else None,
            means=means,
            covariances=covariances,
            last=self._last if recurrence else None,
            gap=self._gap if recurrence else None,
            copying=self._copying / max(self._tokens - self._period, 1) if Need.COPYING in needs else None,
            read=self._read if Need.READ in needs else None,
        )

    def _see_moments(self, layer: int, query: torch.Tensor, first: int) -> None:
        """Add up the queries as they were before RoPE, and their products."""
        skip = max(self._unusual - first, 0)
        query, first = query[skip:], first + skip
        if not len(query):
            return
        positions = torch.arange(first, first + len(query))
        turned = rotate_keys(
            query.transpose(0, 1).contiguous(), *delta_angles(positions, positions * 0, self._frequencies)
        )
        total, products = self._sums.get(layer, (torch.zeros(1), torch.zeros(1)))
        self._sums[layer] = total + turned.sum(1), products + turned.transpose(1, 2) @ turned

    def _moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        totals, products = (torch.stack([self._sums[layer][at] for layer in range(len(self._sums))]) for at in (0, 1))
        count = self._tokens - self._unusual
        means = totals / count
        return means, products / count - means.unsqueeze(-1) * means.unsqueeze(-2)

    def _weights(
        self, query: torch.Tensor, first: int, pool: torch.Tensor, table: torch.Tensor
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the attention of some rows at a time, ``[kv_heads, group, n, T]``."""
        keys = pool[table.long()].transpose(0, 1).flatten(1, 2)
        for start in range(0, len(query), _ROWS):
            rows = query[start : start + _ROWS]
            length = first + start + len(rows)
            yield first + start, attention_of(rows.transpose(0, 1), keys[:, :length], self._scaling)

    def _see_weights(self, layer: int, first: int, weights: torch.Tensor) -> None:
        """Note which tokens rows from ``first`` on attend to, ``[kv_heads, n, T]``, and what they copy."""
        length = weights.shape[2]
        rows = torch.arange(first, length).view(1, -1, 1)
        if Need.RECURRENCE in self._needs:
            last, gap = self._last[layer, :, :length], self._gap[layer, :, :length]
            hits = torch.where(weights >= _ATTENDS, rows, -1).float()
            latest = torch.cat([last.unsqueeze(1), hits], 1).cummax(1).values
            gaps = torch.where((hits >= 0) & (latest[:, :-1] >= 0), rows - latest[:, :-1], 0.0)
            gap.copy_(torch.maximum(gap, gaps.amax(1)))
            last.copy_(latest[:, -1])
        if Need.COPYING in self._needs:
            ago = rows - self._period - torch.arange(length)
            copied = (rows >= self._period) & ((ago == 0) | (ago == -1))
            self._copying[layer] += weights.masked_fill(~copied, 0.0).sum((1, 2))
