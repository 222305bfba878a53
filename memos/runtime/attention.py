"""Attention over packed tokens: rows of many sequences in one ``[1, T]`` forward, each seeing its own cache.

A sequence's keys and values lie in two parts: a shared prefix, and room of its own that ends with this forward's rows.
Each is attended by itself, as a pool of one page, and the results are merged by their log-sum-exp, which is exact; so
the parts are never copied together.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Any, NamedTuple

import torch

from memos.runtime.sequence import Sequence
from memos_kernels import combine_lse, paged_attention_prefill

#: The name of this attention in transformers' ``AttentionInterface``. No mask function is registered under it, for
#: which transformers makes no mask.
ATTENTION = "memos_packed"


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
    rows = query[0].transpose(0, 1).contiguous()
    outputs = []
    for sequence, first, tokens in packed:
        span = slice(first, first + tokens)
        keys, values = sequence.store(layer, key[0, :, span], value[0, :, span])
        outputs.append(_attend(sequence, layer, rows[span], keys, values, scaling))
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).unsqueeze(0), None


def register() -> None:
    """Make the attention known to transformers under :data:`ATTENTION`."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, packed_attention)


def _attend(
    sequence: Sequence, layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Return the output of one sequence's new rows ``[n, heads, head_dim]``."""
    length = sequence.cached - sequence.reused + len(query)
    own = attend_page(query, keys, values, length, scaling, causal=True)
    shared = sequence.shared(layer)
    if shared is None:
        return own[0]
    prefix = attend_page(query, *shared, shared[0].shape[1], scaling, causal=False)
    return combine_lse([prefix[0], own[0]], [prefix[1], own[1]])[0]


def attend_page(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, length: int, scaling: float, *, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend from ``query`` ``[n, heads, D]`` to the first ``length`` tokens of keys and values ``[kv_heads, T, D]``.

    Returns the output like ``query`` and log-sum-exps ``[n, heads]``.
    """
    device = query.device
    return paged_attention_prefill(
        query,
        torch.tensor([0, len(query)], dtype=torch.int32, device=device),
        keys.unsqueeze(0),
        values.unsqueeze(0),
        torch.zeros((1, 2, 1), dtype=torch.int32, device=device),
        torch.tensor([length], dtype=torch.int32, device=device),
        scaling=scaling,
        causal=causal,
    )
