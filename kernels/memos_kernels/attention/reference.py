"""Attention in plain PyTorch, float32, one sequence at a time."""

from __future__ import annotations

import torch

from memos_kernels.checks import blocks_of, page_table


def paged_attention_prefill(
    query: torch.Tensor,
    starts: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    table: torch.Tensor,
    lengths: torch.Tensor,
    scaling: float,
    log_weights: torch.Tensor | None,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`memos_kernels.attention.paged_attention_prefill`."""
    if query.device.type == "cpu":
        _check(starts, lengths, table, len(query), len(keys), keys.shape[2], causal=causal)
    out = torch.zeros_like(query)
    lse = torch.full(query.shape[:2], float("-inf"), device=query.device)
    bounds = starts.tolist()
    for b, length in enumerate(lengths.tolist()):
        first, last = bounds[b], bounds[b + 1]
        if not length or first == last:
            continue
        weights = None if log_weights is None else gathered(log_weights.unsqueeze(-1), table[b, 0], length).squeeze(-1)
        logits = scores(query[first:last], gathered(keys, table[b, 0], length), weights, scaling, causal=causal)
        lse[first:last] = torch.logsumexp(logits, dim=-1).t()
        groups = query.shape[1] // keys.shape[1]
        seen = gathered(values, table[b, 1], length).float().repeat_interleave(groups, 0)
        out[first:last] = (torch.softmax(logits, dim=-1) @ seen).transpose(0, 1).to(out.dtype)
    return out, lse


paged_attention_decode = paged_attention_prefill


def gathered(pool: torch.Tensor, pages: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return ``[heads, tokens, D]`` of a pool ``[pages, heads, P, D]``."""
    used = pages[: blocks_of(tokens, pool.shape[2])].long()
    return pool[used].transpose(0, 1).flatten(1, 2)[:, :tokens]


def scores(
    query: torch.Tensor, keys: torch.Tensor, weights: torch.Tensor | None, scaling: float, *, causal: bool
) -> torch.Tensor:
    """Return float32 scores ``[heads, n, T]`` of rows ``[n, heads, D]``; minus infinity where a row sees no key."""
    groups = query.shape[1] // keys.shape[0]
    spread = keys.float().repeat_interleave(groups, 0)
    logits = torch.einsum("nhd,htd->hnt", query.float(), spread) * scaling
    if weights is not None:
        logits = logits + weights.repeat_interleave(groups, 0).unsqueeze(1)
    if causal:
        rows, tokens = len(query), keys.shape[1]
        seen = torch.arange(tokens, device=query.device) <= torch.arange(
            tokens - rows, tokens, device=query.device
        ).unsqueeze(1)
        logits = logits.masked_fill(~seen, float("-inf"))
    return logits


def _check(
    starts: torch.Tensor, lengths: torch.Tensor, table: torch.Tensor, rows: int, pages: int, size: int, *, causal: bool
) -> None:
    """Raise ``ValueError`` where starts, lengths and pages contradict each other."""
    counts = starts.diff()
    if int(starts[0]) != 0 or int(starts[-1]) != rows or bool((counts < 0).any()):
        raise ValueError("starts must rise from 0 to the number of rows")
    if bool((lengths < 0).any()) or (causal and bool((counts > lengths).any())):
        raise ValueError("a sequence has fewer keys than rows")
    for row, length in zip(table, lengths.tolist(), strict=True):
        page_table("the table", row, pages, blocks_of(length, size))
