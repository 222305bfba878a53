"""Token scores in Triton: log-sum-exps by the attention kernel, then a program for each head and block of keys."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from memos_kernels.attention.gpu import paged_attention_prefill, tile_of_scores
from memos_kernels.triton_mode import Tile, launch, power_of_two


@triton.jit
def _column_sums(
    query: tl.tensor,
    keys: tl.tensor,
    table: tl.tensor,
    log_weights: tl.tensor,
    lse: tl.tensor,
    out: tl.tensor,
    scaling: tl.tensor,
    rows: tl.tensor,
    heads: tl.tensor,
    kv_heads: tl.tensor,
    tokens: tl.tensor,
    head_dim: tl.tensor,
    page_tokens: tl.tensor,
    causal: tl.tensor,
    weighted: tl.constexpr,
    block_rows: tl.constexpr,
    block_keys: tl.constexpr,
    block_dim: tl.constexpr,
) -> None:
    head = tl.program_id(1)
    token = tl.program_id(0) * block_keys + tl.arange(0, block_keys)
    column = tl.arange(0, block_dim)[None, :]
    # Rows before this one see none of these keys.
    first = tl.where(causal != 0, tl.maximum(tl.program_id(0) * block_keys - (tokens - rows), 0), 0)
    total = tl.zeros([block_keys], tl.float32)
    for start in range(first, rows, block_rows):
        row = start + tl.arange(0, block_rows)
        real = row < rows
        place = row.to(tl.int64) * heads + head
        inside = real[:, None] & (column < head_dim)
        rows_here = tl.load(query + place[:, None] * head_dim + column, mask=inside, other=0.0)
        limit = tl.where(causal != 0, tokens - rows + row, tokens - 1)
        scores = tile_of_scores(
            rows_here, keys, table, log_weights, token, tl.where(real, limit, -1), tokens, head * kv_heads // heads,
            kv_heads, page_tokens, head_dim, scaling, weighted, block_dim,
        )  # fmt: skip
        total += tl.sum(tl.exp(scores - tl.load(lse + place, mask=real, other=0.0)[:, None]), 0)
    tl.store(out + head.to(tl.int64) * tokens + token, total, mask=token < tokens)


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
    rows, heads, head_dim = query.shape
    table = table.contiguous()
    starts = torch.tensor([0, rows], dtype=torch.int32, device=query.device)
    lengths = torch.tensor([length], dtype=torch.int32, device=query.device)
    # The attention itself, of the keys as values, is thrown away: that costs less than a kernel more.
    _, lse = paged_attention_prefill(
        query, starts, keys, keys, table.expand(1, 2, -1).contiguous(), lengths, scaling, log_weights, causal
    )
    out = query.new_empty((heads, length), dtype=torch.float32)
    tile = _tile(query, log_weights)
    launch(
        _column_sums,
        (triton.cdiv(length, tile.constants["block_keys"]), heads),
        tile,
        query,
        keys,
        table,
        lse if log_weights is None else log_weights,
        lse,
        out,
        scaling,
        rows,
        heads,
        keys.shape[1],
        length,
        head_dim,
        keys.shape[2],
        int(causal),
    )
    return out


def _tile(query: torch.Tensor, log_weights: torch.Tensor | None) -> Tile:
    exact = query.dtype == torch.float32
    constants = {
        "weighted": log_weights is not None,
        "block_rows": 16,
        "block_keys": 32 if exact else 64,
        "block_dim": power_of_two(query.shape[2], 64),
    }
    return Tile(constants, warps=4, stages=1 if exact else 2, fused=True)
