"""Folding tokens into others: weighted means of keys and values, and how many went in."""

from __future__ import annotations

import torch

from memos.activation.select.base import Pruned

#: The owner of a token that is dropped without a trace.
NOBODY = -1


def fold(layer: torch.Tensor, owners: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a layer whose owners are the weighted means of what they own, and how many tokens those are.

    ``layer`` is ``[2, heads, tokens, head_dim]``, ``owners`` int64 ``[heads, tokens]`` names the place of each token's
    owner (its own, for an owner), or :data:`NOBODY`, and ``weights`` is float32 ``[heads, tokens]``. Counts are int64
    ``[heads, tokens]``, 0 for all that own nothing.
    """
    heads, tokens = owners.shape
    at = torch.where(owners == NOBODY, tokens, owners)
    weights = torch.where(owners == NOBODY, 0.0, weights)
    sums = torch.zeros(heads, tokens + 1).scatter_add_(1, at, weights)[:, :tokens]
    counts = torch.zeros(heads, tokens + 1, dtype=torch.int64).scatter_add_(1, at, torch.ones_like(at))[:, :tokens]
    place = at.view(1, heads, tokens, 1).expand_as(layer)
    weighted = layer.float() * weights.view(1, heads, tokens, 1)
    totals = torch.zeros(2, heads, tokens + 1, layer.shape[3]).scatter_add_(2, place, weighted)[:, :, :tokens]
    means = totals / sums.clamp_min(1e-12).view(1, heads, tokens, 1)
    return torch.where((counts > 1).view(1, heads, tokens, 1), means, layer.float()), counts


def gathered(kept: torch.Tensor, data: torch.Tensor, folded: list[tuple[torch.Tensor, torch.Tensor]]) -> Pruned:
    """Return what is left of all layers, in the dtype of the cache's ``data``."""
    layers, counts = (list(part) for part in zip(*folded, strict=True))
    return Pruned(kept, torch.stack(layers).to(data.dtype), torch.stack(counts).clamp_min(1))
