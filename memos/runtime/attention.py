"""Attention over packed tokens: rows of many sequences in one ``[1, T]`` forward, each seeing its own cache.

A sequence's keys and values lie in up to three parts: a shared prefix, what the sequence has cached before, and this
forward's own rows. Each part is attended by itself and the results are merged by their log-sum-exp, which is exact
(FlashDecoding; Ye et al. 2025, FlashInfer, arXiv:2501.01005, eq. 1-3):

    o = (e^(s1) o1 + e^(s2) o2) / (e^(s1) + e^(s2)),  s = log sum_j e^(q k_j / sqrt(d))

so the parts are never copied together. Query heads that share a key/value head are folded into its query rows.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Any, NamedTuple

import torch

from memos.runtime.sequence import Sequence

#: The name of this attention in transformers' ``AttentionInterface``. No mask function is registered under it, for
#: which transformers makes no mask.
ATTENTION = "memos_packed"

Partial = tuple[torch.Tensor, torch.Tensor]


class Part(NamedTuple):
    """Rows ``first .. first + tokens - 1`` of a packed forward: the next tokens of a sequence."""

    sequence: Sequence
    first: int
    tokens: int


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    packed: Many[Part] = (),
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Store the keys and values of every part in its sequence and attend.

    Args:
        module: the attention layer; its ``layer_idx`` names the cache.
        query: ``[1, heads, T, head_dim]`` after RoPE.
        key: ``[1, kv_heads, T, head_dim]`` after RoPE.
        value: ``[1, kv_heads, T, head_dim]``.
        attention_mask: always None.
        scaling: factor of the scores.
        packed: what the rows are, in order.

    Returns:
        ``[1, T, heads, head_dim]`` and None for the weights.
    """
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    outputs = []
    for sequence, first, tokens in packed:
        rows = slice(first, first + tokens)
        one = _attend(sequence, layer, query[0, :, rows], key[0, :, rows], value[0, :, rows], scaling)
        outputs.append(one.transpose(0, 1))
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).unsqueeze(0), None


def register() -> None:
    """Make the attention known to transformers under :data:`ATTENTION`."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, packed_attention)


def _attend(
    sequence: Sequence, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Return the output ``[heads, n, head_dim]`` of one sequence's new rows."""
    keys, values = sequence.store(layer, key, value)
    count = query.shape[1]
    past = keys.shape[1] - count
    shared = sequence.shared(layer)
    parts = [] if shared is None else [attend_all(query, *shared, scaling)]
    if count == 1:
        parts.append(attend_all(query, keys, values, scaling))
    else:
        if past:
            parts.append(attend_all(query, keys[:, :past], values[:, :past], scaling))
        parts.append(attend_causal(query, key, value, scaling))
    return merge(parts)


def merge(parts: Many[Partial]) -> torch.Tensor:
    """Join attention over disjoint keys: outputs ``[heads, n, head_dim]`` with log-sum-exps ``[heads, n]``."""
    output, mass = parts[0]
    for place, (other, more) in enumerate(parts[1:], 2):
        share = torch.sigmoid(mass - more).to(output.dtype).unsqueeze(-1)
        output = torch.lerp(other, output, share)
        if place < len(parts):
            mass = torch.logaddexp(mass, more)
    return output


def attend_all(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float) -> Partial:
    """Attend to all of ``keys`` ``[kv_heads, m, head_dim]`` from ``query`` ``[heads, n, head_dim]``."""
    heads, count, head_dim = query.shape
    folded = query.reshape(keys.shape[0], -1, head_dim)
    output, mass = _flash(folded, keys, values, scaling, causal=False)
    return output.reshape(heads, count, head_dim), mass.reshape(heads, count)


def attend_causal(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float) -> Partial:
    """Attend from row i of ``query`` ``[heads, n, head_dim]`` to rows 0 .. i of ``keys``."""
    return _flash(query, keys, values, scaling, causal=True)


def _flash(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float, *, causal: bool) -> Partial:
    if not query.is_cpu:
        return _plain(query, keys, values, scaling, causal=causal)
    output, mass = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query.unsqueeze(0), keys.unsqueeze(0), values.unsqueeze(0), 0.0, causal, scale=scaling
    )
    return output[0], mass[0]


def _plain(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float, *, causal: bool) -> Partial:
    """The same from matrix products, where there is no fused kernel that returns the log-sum-exp."""
    heads, count, head_dim = query.shape
    groups = heads // keys.shape[0]
    folded = query.reshape(keys.shape[0], groups * count, head_dim)
    scores = torch.matmul(folded, keys.transpose(1, 2)).float().mul_(scaling).view(heads, count, -1)
    if causal:
        hidden = torch.ones(count, count, dtype=torch.bool, device=query.device).triu_(1)
        scores.masked_fill_(hidden, float("-inf"))
    mass = torch.logsumexp(scores, dim=-1)
    weights = (scores - mass.unsqueeze(-1)).exp_().to(values.dtype).view(keys.shape[0], groups * count, -1)
    return torch.matmul(weights, values).view(heads, count, head_dim), mass
