"""Attention over packed tokens: rows of many sequences in one ``[1, T]`` forward, each seeing its own cache.

Keys and values lie in pages of the pool, which one kernel call a layer attends for all sequences. A prefix lies in
memory of its own, as a pool of one page; all rows behind it attend it together, or each what it chooses of it
(:mod:`memos.runtime.retrieval`), and both results are merged by their log-sum-exp, which is exact. Nothing is ever
copied together.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, Protocol

import torch

from memos.activation.ragged import RaggedLayer
from memos.runtime.batch import Batch, Group
from memos.runtime.retrieval.attending import attend_chosen
from memos.runtime.retrieval.names import Retrieval
from memos.runtime.sequence import PrefixLayer, PrefixPart, Sequence
from memos_kernels import combine_lse, paged_attention_decode, paged_attention_prefill

#: The name of this attention in transformers' ``AttentionInterface``. No mask function is registered under it, for
#: which transformers makes no mask.
ATTENTION = "memos_packed"


class Attends(Protocol):
    """What the rows of a forward are, if not the next tokens of sequences."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """Return what ``query`` ``[heads, T, D]`` finds, ``[T, heads, D]``; ``key``, ``value`` ``[kv_heads, T, D]``."""


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    packed: Batch | Attends,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Store the keys and values of every row in its page and attend.

    Args:
        module: the attention layer; its ``layer_idx`` names the cache.
        query: ``[1, heads, T, head_dim]`` after RoPE.
        key: ``[1, kv_heads, T, head_dim]`` after RoPE.
        value: ``[1, kv_heads, T, head_dim]``.
        attention_mask: always None.
        scaling: factor of the scores.
        packed: what the rows are.

    Returns:
        ``[1, T, heads, head_dim]`` and None for the weights.
    """
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if not isinstance(packed, Batch):
        return packed.attend(layer, query[0], key[0], value[0], scaling).unsqueeze(0), None
    pool = packed.pool.kv
    for side, rows in enumerate((key, value)):
        pool[packed.pages[layer, side], :, packed.places] = rows[0].transpose(0, 1)
    query = query[0].transpose(0, 1).contiguous()
    out, lse = _own(packed, layer, query, scaling)
    _show(packed, layer, query, scaling)
    for group in packed.groups:
        out = _behind(packed, group, layer, query, out, lse, scaling)
    return out.unsqueeze(0), None


def register() -> None:
    """Make the attention known to transformers under :data:`ATTENTION`."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, packed_attention)


def _own(packed: Batch, layer: int, query: torch.Tensor, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend from all rows to the pages of their sequences; return ``[T, heads, D]`` and lse ``[T, heads]``."""
    pool, results = packed.pool.kv, []
    if packed.single is not None:
        rows, those, _ = packed.single
        tables = packed.table[layer, those], packed.lengths[those]
        results.append(paged_attention_decode(query[rows], pool, pool, *tables, scaling=scaling))
    if packed.many is not None:
        rows, those, starts = packed.many
        tables = packed.table[layer, those], packed.lengths[those]
        results.append(paged_attention_prefill(query[rows], starts, pool, pool, *tables, scaling=scaling, causal=True))
    if len(results) == 1:
        return results[0]
    out, lse = (torch.cat(parts) for parts in zip(*results, strict=True))
    return out, lse


def _show(packed: Batch, layer: int, query: torch.Tensor, scaling: float) -> None:
    """Show the rows of sequences that are watched; those have no prefix."""
    for at in packed.watched:
        sequence, first, count = packed.parts[at]
        if sequence.watcher is not None:
            sequence.watcher.scale(scaling)
            table = packed.table[layer, at, 0]
            sequence.watcher.see(layer, query[first : first + count], sequence.cached, packed.pool.kv, table)


def _behind(
    packed: Batch,
    group: Group,
    layer: int,
    query: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """Merge what the rows of a group see of their prefix into ``out``."""
    if group.rows is None:
        return _joined(group.sequence, layer, query, out, lse, scaling)
    rows = group.rows
    out[rows] = _joined(group.sequence, layer, query[rows], out[rows], lse[rows], scaling)
    return out


def _joined(
    sequence: Sequence, layer: int, query: torch.Tensor, out: torch.Tensor, lse: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Return what rows see of their prefix, which may be in parts that weigh differently, and of the rest (``out``)."""
    outs, lses = [], []
    for part in sequence.prefix_parts(layer, query.device):
        found, mass = _attend_part(query, part, layer, sequence.retrieval, scaling / part.temperature)
        outs.append(found)
        lses.append(mass * (part.temperature * part.scale))
    return combine_lse([*outs, out], [*lses, lse])[0]


def _attend_part(
    query: torch.Tensor, part: PrefixPart, layer: int, retrieval: Retrieval | None, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend to a layer of a part of a prefix: what a retrieval chooses of it, or all."""
    kept, tokens = part.layer, part.source.tokens
    if retrieval is None:
        return _attend_prefix(query, kept, scaling)
    if isinstance(kept, RaggedLayer):
        return _attend_prefix(query, kept.to(query.device), scaling)
    if retrieval.attended(tokens) == tokens:
        return _attend_prefix(query, (kept[0].to(query.device), kept[1].to(query.device)), scaling)
    return attend_chosen(query, part.source, layer, kept, retrieval, scaling)


def _attend_prefix(query: torch.Tensor, kept: PrefixLayer, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend to a layer of a prefix: at once, or each run of heads that keep equally many entries by itself."""
    if not isinstance(kept, RaggedLayer):
        return attend_page(query, *kept, kept[0].shape[1], scaling, causal=False)
    group, results, head, start = query.shape[1] // len(kept.lengths), [], 0, 0
    for length, alike in groupby(kept.lengths):
        count = len(list(alike))
        mine = slice(start, start + count * length)
        keys, values = (part[mine].unflatten(0, (count, length)) for part in (kept.keys, kept.values))
        logs = None if kept.log_counts is None else kept.log_counts[mine].view(1, count, length)
        heads = query[:, head * group : (head + count) * group].contiguous()
        head, start = head + count, mine.stop
        if not length:
            results.append((torch.zeros_like(heads), heads.new_full(heads.shape[:2], -torch.inf, dtype=torch.float32)))
            continue
        results.append(attend_page(heads, keys, values, length, scaling, causal=False, log_weights=logs))
    out, lse = zip(*results, strict=True)
    return torch.cat(out, 1), torch.cat(lse, 1)


def attend_page(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    length: int,
    scaling: float,
    *,
    causal: bool,
    log_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend from ``query`` ``[n, heads, D]`` to the first ``length`` tokens of keys and values ``[kv_heads, T, D]``.

    ``log_weights``, float32 ``[1, kv_heads, T]``, is added to their scores. Returns the output like ``query`` and
    log-sum-exps ``[n, heads]``.
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
        log_weights=log_weights,
    )
