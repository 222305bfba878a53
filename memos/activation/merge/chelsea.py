"""Chelsea: soft matching of keys within chunks (Hu et al. 2025, arXiv:2506.11418). Needs keys alone.

The tokens of a chunk are dealt to two sides in turn; each of side A is matched with the most similar key of side B, and
the pairs most alike are merged into their centroid. A round removes at most half of a chunk, so there are as many
rounds as it takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import NamedTuple

import torch
from torch.nn.functional import normalize

from memos.activation.kv import KVBlock
from memos.activation.select.base import SINKS, Policy, Pruned, window_of
from memos.activation.select.budgets import each


class _Clusters(NamedTuple):
    """Clusters of many chunks: centroids ``[n, c, 2 * head_dim]``, sizes and places of their first ``[n, c]``."""

    centroids: torch.Tensor
    sizes: torch.Tensor
    places: torch.Tensor


@dataclass(frozen=True)
class Chelsea(Policy):
    """Chunks of about ``chunk`` tokens; the sinks and the last ``window`` tokens stay as they are."""

    chunk: int = 64
    window: int = 32

    def prune(self, kv: KVBlock) -> Pruned:
        """Return the centroids, each at the place of one of its tokens."""
        layers = [self._layer(kv, layer.float()) for layer in kv.data]
        kept, data, counts = (torch.stack([layer[at] for layer in layers]) for at in range(3))
        return Pruned(kept, data.to(kv.data.dtype), counts)

    def _layer(self, kv: KVBlock, layer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        heads, tokens = layer.shape[1:3]
        both = torch.cat([layer[0], layer[1]], -1)
        kept = torch.ones(heads, tokens, dtype=torch.bool)
        counts = torch.ones(heads, tokens, dtype=torch.int64)
        for chunks, target in self._chunks(kv):
            clusters = _clustered(both[:, chunks].flatten(0, 1), chunks.repeat(heads, 1), target)
            rows = torch.arange(heads).repeat_interleave(len(chunks)).unsqueeze(1)
            kept[rows, chunks.repeat(heads, 1)] = False
            kept[rows, clusters.places] = True
            both[rows, clusters.places] = clusters.centroids
            counts[rows, clusters.places] = clusters.sizes
        return kept, torch.stack(both.chunk(2, -1)), counts

    def _chunks(self, kv: KVBlock) -> Iterator[tuple[torch.Tensor, int]]:
        """Yield places ``[chunks, size]`` of chunks of one size, and how many clusters of each are left."""
        budget, window = each(kv, self.ratio), window_of(kv, self.ratio, self.window)
        stop = kv.tokens - window
        start = min(SINKS, stop, budget - window)
        budget -= start + window
        number = min(max(1, (stop - start) // self.chunk), max(1, budget))
        edges = [start + (stop - start) * at // number for at in range(number + 1)]
        targets = [budget * (at + 1) // number - budget * at // number for at in range(number)]
        plan = sorted((b - a, target, a) for (a, b), target in zip(pairwise(edges), targets, strict=True))
        for (size, target), alike in groupby(plan, key=lambda chunk: chunk[:2]):
            yield torch.tensor([list(range(a, a + size)) for _, _, a in alike], dtype=torch.int64), target


def _clustered(rows: torch.Tensor, places: torch.Tensor, target: int) -> _Clusters:
    """Return ``target`` clusters of each chunk of rows ``[n, c, 2 * head_dim]`` at ``places`` ``[n, c]``."""
    clusters = _Clusters(rows, torch.ones(places.shape, dtype=torch.int64), places)
    while (size := clusters.places.shape[1]) > max(target, 1):
        clusters = _round(clusters, min(size - max(target, 1), size // 2))
    return _Clusters(*(part[:, :target] for part in clusters))


def _round(clusters: _Clusters, merges: int) -> _Clusters:
    """Merge the ``merges`` best pairs of every chunk."""
    second, first = (_Clusters(*(part[:, side::2] for part in clusters)) for side in (0, 1))
    dim = clusters.centroids.shape[-1] // 2
    ours, theirs = (normalize(side.centroids[..., :dim], dim=-1) for side in (first, second))
    found = (ours @ theirs.transpose(1, 2)).max(-1)
    order = torch.argsort(found.values, dim=-1, descending=True, stable=True)
    gone = _taken(first, order[:, :merges])
    joined = _joined(second, gone, found.indices.gather(1, order[:, :merges]))
    both = _Clusters(*(torch.cat(pair, 1) for pair in zip(joined, _taken(first, order[:, merges:]), strict=True)))
    return _taken(both, both.places.argsort(-1))


def _taken(clusters: _Clusters, at: torch.Tensor) -> _Clusters:
    """Return those at ``at`` ``[n, m]``."""
    wide = at.unsqueeze(-1).expand(-1, -1, clusters.centroids.shape[-1])
    return _Clusters(clusters.centroids.gather(1, wide), clusters.sizes.gather(1, at), clusters.places.gather(1, at))


def _joined(clusters: _Clusters, others: _Clusters, into: torch.Tensor) -> _Clusters:
    """Return clusters with others, each merged into the one that ``into`` ``[n, m]`` names, at their own places."""
    wide = into.unsqueeze(-1).expand_as(others.centroids)
    sizes = clusters.sizes.scatter_add(1, into, others.sizes)
    sums = clusters.centroids * clusters.sizes.unsqueeze(-1)
    sums = sums.scatter_add(1, wide, others.centroids * others.sizes.unsqueeze(-1))
    return _Clusters(sums / sizes.unsqueeze(-1), sizes, clusters.places)
