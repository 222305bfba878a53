"""How much a token matters, judged before any question is known.

Attention-based scores need the queries of a prompt that does not exist yet when a memory is compressed. KeyDiff (Park
et al. 2025, arXiv:2504.15364) needs only the keys: those that point away from the mean direction are the ones that
some query will single out.
"""

from __future__ import annotations

import torch

from memos.activation.select.budgets import best


def key_diff(keys: torch.Tensor) -> torch.Tensor:
    """Return a score per token, float32 ``[heads, tokens]``, higher is more important: -cos(k, mean of k/|k|).

    ``keys`` is float32 ``[heads, tokens, head_dim]``.
    """
    unit = torch.nn.functional.normalize(keys, dim=-1)
    anchor = torch.nn.functional.normalize(unit.mean(dim=-2, keepdim=True), dim=-1)
    return -(unit * anchor).sum(dim=-1)


def most_important(scores: torch.Tensor, share: float) -> torch.Tensor:
    """Return which tokens are among the best ``share`` of their row, bool like ``scores`` ``[rows, tokens]``.

    Of equal scores the earlier token comes first, so that the choice is the same on every machine.
    """
    return best(scores, torch.full(scores.shape[:-1], round(share * scores.shape[-1])))
