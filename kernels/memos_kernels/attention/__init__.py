"""Attention over a page table, with the log-sum-exp that lets partial results be joined."""

from __future__ import annotations

import torch

from memos_kernels import checks
from memos_kernels.dispatch import run


def paged_attention_decode(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    table: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scaling: float,
    log_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend from one row of each sequence to all of its keys: :func:`paged_attention_prefill` with one row each.

    ``query`` is ``[B, heads, D]``; everything else as there.
    """
    starts = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device)
    return _attend(
        "paged_attention_decode", query, starts, keys, values, table, lengths, scaling, log_weights, causal=False
    )


def paged_attention_prefill(
    query: torch.Tensor,
    starts: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    table: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scaling: float,
    causal: bool,
    log_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend from packed rows of ``B`` sequences to their keys and values in pages, grouped queries (GQA)::

        s[t] = scaling * q . k[t] + log_weights[t]
        lse = log sum_t e^s[t],   out = sum_t e^(s[t] - lse) v[t]

    in float32. Head ``h`` of the query sees head ``h // (heads / kv_heads)`` of the keys. ``lse`` makes partial results
    exact parts of a whole (:func:`memos_kernels.lse.combine_lse`); FlashAttention-2 (Dao, arXiv:2307.08691) without
    the final scaling being deferred, over pages as in PagedAttention (Kwon et al., arXiv:2309.06180).

    Args:
        query: ``[N, heads, D]``, the rows of all sequences one after the other; float32, bfloat16 or float16.
        starts: int32 ``[B + 1]``: sequence ``b`` has rows ``starts[b]`` to ``starts[b + 1] - 1``.
        keys: pool ``[pages, kv_heads, P, D]`` of the query's dtype.
        values: pool like the keys'; may be the same tensor.
        table: int32 ``[B, 2, blocks]``: the pages of each sequence, for keys and for values.
        lengths: int32 ``[B]``: the number of its keys. With none of them, out is 0 and lse minus infinity.
        scaling: factor of the scores.
        causal: whether the ``n`` rows of a sequence are its last ``n`` tokens, each seeing keys up to itself; else all
            rows see all keys. Causal rows must not be more than there are keys.
        log_weights: float32 ``[pages, kv_heads, P]``, addressed like the keys: ``log n`` for a token that ``n`` were
            merged into; none: all 0.

    Returns:
        ``out`` like the query and ``lse`` float32 ``[N, heads]``.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit; on the CPU, where looking costs nothing, also starts,
            lengths and pages that contradict each other.
    """
    return _attend(
        "paged_attention_prefill", query, starts, keys, values, table, lengths, scaling, log_weights, causal=causal
    )


def _attend(
    function: str,
    query: torch.Tensor,
    starts: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    table: torch.Tensor,
    lengths: torch.Tensor,
    scaling: float,
    log_weights: torch.Tensor | None,
    *,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    checks.floating("query", query)
    checks.shaped("query", query, (None, None, None))
    check_keys(query, keys, log_weights)
    checks.shaped("values", values, keys.shape if values is not keys else (None, *keys.shape[1:]))
    if values.dtype != keys.dtype:
        raise ValueError(f"keys are {keys.dtype} and values {values.dtype}")
    checks.shaped("lengths", lengths, (None,))
    sequences = len(lengths)
    checks.shaped("table", table, (sequences, 2, None))
    checks.shaped("starts", starts, (sequences + 1,))
    if table.dtype != torch.int32 or lengths.dtype != torch.int32 or starts.dtype != torch.int32:
        raise ValueError("table, lengths and starts must be int32")
    checks.same_device(query=query, keys=keys, values=values, table=table, lengths=lengths, starts=starts)
    result: tuple[torch.Tensor, torch.Tensor] = run(
        "attention", function, query, query, starts, keys, values, table, lengths, scaling, log_weights, causal
    )
    return result


def check_keys(query: torch.Tensor, keys: torch.Tensor, log_weights: torch.Tensor | None) -> None:
    """Raise ``ValueError`` unless a pool of keys, and of weights, fits a query ``[N, heads, D]``."""
    checks.pages("keys", keys, (None, None, None, query.shape[2]))
    if keys.dtype != query.dtype:
        raise ValueError(f"keys are {keys.dtype} and the query {query.dtype}")
    if query.shape[1] % keys.shape[1]:
        raise ValueError(f"{query.shape[1]} heads cannot share {keys.shape[1]} heads of keys")
    if log_weights is not None:
        checks.shaped("log_weights", log_weights, keys.shape[:3])
        checks.same_device(keys=keys, log_weights=log_weights)
        if log_weights.dtype != torch.float32:
            raise ValueError(f"log_weights is {log_weights.dtype}; float32 is needed")
