"""Token scores in plain PyTorch, with the whole matrix."""

from __future__ import annotations

import torch

from memos_kernels.attention.reference import gathered, scores


def token_scores(
    query: torch.Tensor,
    keys: torch.Tensor,
    table: torch.Tensor,
    length: int,
    scaling: float,
    causal: bool,
    log_weights: torch.Tensor | None,
) -> torch.Tensor:
    """See :func:`memos_kernels.scores.token_scores`."""
    weights = None if log_weights is None else gathered(log_weights.unsqueeze(-1), table, length).squeeze(-1)
    logits = scores(query, gathered(keys, table, length), weights, scaling, causal=causal)
    return torch.softmax(logits, dim=-1).sum(dim=1)
