"""Folding tokens into others: weighted means of keys and values, and how many went in."""

from __future__ import annotations

import torch

from memos.activation.codecs.rope import likely_base, rotate
from memos.activation.select.base import Pruned

#: The owner of a token that is dropped without a trace.
NOBODY = -1


def fold(layer: torch.Tensor, owners: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a layer whose owners are the weighted means of what they own, and how many tokens those are.

    Keys are averaged as they were before RoPE, and turned to their owner's position: after it, those of distant tokens
    would cancel out. The layer returned is float32; counts are int64 ``[heads, tokens]``, 0 for all that own nothing.

    Args:
        layer: ``[2, heads, tokens, head_dim]``.
        owners: int64 ``[heads, tokens]``, the place of each token's owner (its own, for an owner), or :data:`NOBODY`.
        weights: float32 ``[heads, tokens]``.
    """
    keys, values = layer.float()
    base = likely_base(keys)
    means, counts = _means(torch.stack([rotate(keys, base, back=True), values]), owners, weights)
    means[0] = rotate(means[0], base)
    return torch.where((counts > 1).unsqueeze(-1), means, layer.float()), counts


def _means(layer: torch.Tensor, owners: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    _, heads, tokens, dim = layer.shape
    at = torch.where(owners == NOBODY, tokens, owners)  # one place more, for what is dropped
    sums = torch.zeros(heads, tokens + 1).scatter_add_(1, at, weights)
    counts = torch.zeros(heads, tokens + 1, dtype=torch.int64).scatter_add_(1, at, torch.ones_like(at))
    place = at.view(1, heads, tokens, 1).expand_as(layer)
    totals = torch.zeros(2, heads, tokens + 1, dim).scatter_add_(2, place, layer * weights.unsqueeze(-1))
    means = totals / sums.clamp_min(1e-12).unsqueeze(-1)
    return means[:, :, :tokens].contiguous(), counts[:, :tokens]


def gathered(kept: torch.Tensor, data: torch.Tensor, folded: list[tuple[torch.Tensor, torch.Tensor]]) -> Pruned:
    """Return what is left of all layers, in the dtype of the cache's ``data``."""
    layers, counts = (list(part) for part in zip(*folded, strict=True))
    return Pruned(kept, torch.stack(layers).to(data.dtype), torch.stack(counts).clamp_min(1))
