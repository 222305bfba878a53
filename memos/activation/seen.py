"""What is noted of a prompt's queries while its cache is computed, for policies that choose tokens by attention.

A memory is compressed before any question is known, so these are the queries of the memory itself, or of the memory
read a second time behind itself: who has to say it again looks for all of it. Nothing grows with the square of its
length.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch

#: Queries at the end of a prompt that are kept.
TAIL = 64


class Need(Enum):
    """What may be asked to be noted."""

    TAIL = "tail"
    MASS = "mass"
    MOMENTS = "moments"
    RECURRENCE = "recurrence"
    COPYING = "copying"
    READ = "read"


@dataclass(frozen=True, slots=True)
class Seen:
    """What was noted, each if it was asked for; all float32 in host memory.

    ``scaling`` is the model's factor of scores and ``frequencies`` ``[head_dim / 2]`` those of its rotary embedding.
    ``tail``: the last :data:`TAIL` queries, or all there are, after RoPE, ``[layers, heads, W, head_dim]``.
    ``mass``: attention each token received from all rows, summed, and averaged over the query heads of a key head,
    ``[layers, kv_heads, T]``. ``means`` ``[layers, heads, head_dim]`` and ``covariances``
    ``[layers, heads, head_dim, head_dim]`` are of the queries before RoPE, without the sinks'. ``last`` and ``gap``
    ``[layers, kv_heads, T]``: the latest row that attended to a token, and the most rows between two that did.
    ``copying`` ``[layers, kv_heads]``: how much of its attention a head pays to what stood at, or after, the same token
    before, in random tokens that repeat. ``read`` ``[layers, kv_heads, T]``: the most attention that any query head of
    a key head paid to a token from any row of the second reading.
    """

    scaling: float
    frequencies: torch.Tensor
    tail: torch.Tensor | None = None
    mass: torch.Tensor | None = None
    means: torch.Tensor | None = None
    covariances: torch.Tensor | None = None
    last: torch.Tensor | None = None
    gap: torch.Tensor | None = None
    copying: torch.Tensor | None = None
    read: torch.Tensor | None = None


def attention_of(query: torch.Tensor, keys: torch.Tensor, scaling: float) -> torch.Tensor:
    """Return the causal attention of the last rows of a sequence, float32 ``[kv_heads, group, n, T]``.

    ``query`` is ``[heads, n, head_dim]``, of rows ``T - n .. T - 1``, and ``keys`` ``[kv_heads, T, head_dim]``.
    """
    kv_heads, tokens, _ = keys.shape
    rows = query.shape[1]
    grouped = (query.float() * scaling).reshape(kv_heads, -1, query.shape[2])
    scores = (grouped @ keys.float().transpose(1, 2)).unflatten(1, (-1, rows))
    ahead = torch.ones(rows, rows, dtype=torch.bool, device=query.device).triu(1)
    scores[..., tokens - rows :].masked_fill_(ahead, -torch.inf)
    return torch.softmax(scores, -1)
