"""Attention in Triton: a program for a block of rows and one head of keys, its queries folded into the rows.

Row ``f`` of a sequence and a head of keys is query ``f // group`` and head ``f % group`` of the group that shares the
keys. Decoding splits the keys into parts of a fixed length, whatever the machine, and merges them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from memos_kernels.lse.gpu import combine_stacked
from memos_kernels.triton_mode import Tile, launch, power_of_two
from memos_kernels.triton_ragged import owner

#: Keys of one part of a sequence that is decoded.
SPLIT = 512


@triton.jit
def tile_of_scores(
    query: tl.tensor,
    keys: tl.tensor,
    pages: tl.tensor,
    log_weights: tl.tensor,
    token: tl.tensor,
    limit: tl.tensor,
    end: tl.tensor,
    kv_head: tl.tensor,
    kv_heads: tl.tensor,
    page_tokens: tl.tensor,
    head_dim: tl.tensor,
    scaling: tl.tensor,
    weighted: tl.constexpr,
    block_dim: tl.constexpr,
) -> tl.tensor:
    """Return float32 scores of rows ``[M, D]`` and the keys of ``token`` ``[N]``.

    Minus infinity from ``end`` on, and where a token lies after a row's ``limit``.
    """
    column = tl.arange(0, block_dim)
    real = token < end
    page = tl.load(pages + token // page_tokens, mask=real, other=0).to(tl.int64)
    place = (page * kv_heads + kv_head) * page_tokens + token % page_tokens
    inside = real[:, None] & (column < head_dim)[None, :]
    key = tl.load(keys + place[:, None] * head_dim + column[None, :], mask=inside, other=0.0)
    scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scaling
    if weighted:
        scores += tl.load(log_weights + place, mask=real, other=0.0)[None, :]
    return tl.where(real[None, :] & (token[None, :] <= limit[:, None]), scores, float("-inf"))


@triton.jit
def _weighted_sum(weights: tl.tensor, values: tl.tensor, summed: tl.tensor) -> tl.tensor:
    """Return ``summed + weights values``, the float32 weights of 16-bit values as the sum of two 16-bit parts."""
    rounded = weights.to(values.dtype)
    summed = tl.dot(rounded, values, summed, input_precision="ieee")
    if values.dtype != tl.float32:
        rest = (weights - rounded.to(tl.float32)).to(values.dtype)
        summed = tl.dot(rest, values, summed, input_precision="ieee")
    return summed


@triton.jit
def _attend(
    query: tl.tensor,
    starts: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    table: tl.tensor,
    lengths: tl.tensor,
    log_weights: tl.tensor,
    out: tl.tensor,
    lse: tl.tensor,
    scaling: tl.tensor,
    sequences: tl.tensor,
    rows: tl.tensor,
    kv_heads: tl.tensor,
    group: tl.tensor,
    head_dim: tl.tensor,
    page_tokens: tl.tensor,
    blocks: tl.tensor,
    split: tl.tensor,
    causal: tl.tensor,
    weighted: tl.constexpr,
    block_rows: tl.constexpr,
    block_keys: tl.constexpr,
    block_dim: tl.constexpr,
) -> None:
    sequence = owner(starts, sequences, group, tl.program_id(0), block_rows)
    kv_head = tl.program_id(1)
    first_row = tl.load(starts + sequence)
    block = tl.program_id(0) - first_row * group // block_rows - sequence
    queries = tl.load(starts + sequence + 1) - first_row
    if block * block_rows >= queries * group:
        return
    folded = block * block_rows + tl.arange(0, block_rows)
    real = folded < queries * group
    place = (first_row + folded // group).to(tl.int64) * kv_heads * group + kv_head * group + folded % group
    column = tl.arange(0, block_dim)[None, :]
    inside = real[:, None] & (column < head_dim)
    rows_here = tl.load(query + place[:, None] * head_dim + column, mask=inside, other=0.0)

    length = tl.load(lengths + sequence)
    limit = tl.where(causal != 0, length - queries + folded // group, length - 1)
    pages = table + sequence.to(tl.int64) * 2 * blocks
    begin = tl.program_id(2) * split
    end = tl.minimum(tl.minimum(length, begin + split), tl.max(tl.where(real, limit, -1), 0) + 1)
    top = tl.full([block_rows], float("-inf"), tl.float32)
    total = tl.zeros([block_rows], tl.float32)
    summed = tl.zeros([block_rows, block_dim], tl.float32)
    for start in range(begin, end, block_keys):
        token = start + tl.arange(0, block_keys)
        scores = tile_of_scores(
            rows_here, keys, pages, log_weights, token, limit, end, kv_head, kv_heads, page_tokens, head_dim, scaling,
            weighted, block_dim,
        )  # fmt: skip
        higher = tl.maximum(top, tl.max(scores, 1))
        # A row that has seen no key yet has minus infinity at the top, which must not be subtracted from itself.
        shift = tl.where(higher > float("-inf"), higher, 0.0)
        weights = tl.exp(scores - shift[:, None])
        kept = tl.exp(top - shift)
        total = total * kept + tl.sum(weights, 1)
        top = higher
        seen = token < end
        page = tl.load(pages + blocks + token // page_tokens, mask=seen, other=0).to(tl.int64)
        at = ((page * kv_heads + kv_head) * page_tokens + token % page_tokens)[:, None] * head_dim + column
        value = tl.load(values + at, mask=seen[:, None] & (column < head_dim), other=0.0)
        summed = _weighted_sum(weights, value, summed * kept[:, None])
    some = total > 0
    total = tl.where(some, total, 1.0)
    place += tl.program_id(2).to(tl.int64) * rows * kv_heads * group
    tl.store(lse + place, tl.where(some, top + tl.log(total), float("-inf")), mask=real)
    result = (summed / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + place[:, None] * head_dim + column, result, mask=inside)


def paged_attention_decode(
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
    """See :func:`memos_kernels.attention.paged_attention_decode`."""
    out, lse = torch.empty_like(query), query.new_empty(query.shape[:2], dtype=torch.float32)
    # How long the longest sequence is, only the device knows; its table bounds it.
    parts = triton.cdiv(table.shape[2] * keys.shape[2], SPLIT)
    arguments = (query, starts, keys, values, table, lengths, log_weights)
    tile = _tile(query, log_weights, 16)
    if parts < 2:
        _launch(tile, *arguments, out, lse, scaling, causal, SPLIT)
        return out, lse
    outs = query.new_empty((parts, *query.shape), dtype=torch.float32)
    lses = query.new_empty((parts, *query.shape[:2]), dtype=torch.float32)
    _launch(tile, *arguments, outs, lses, scaling, causal, SPLIT, parts)
    combine_stacked(outs, lses, out, lse)
    return out, lse


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
    out, lse = torch.empty_like(query), query.new_empty(query.shape[:2], dtype=torch.float32)
    tile = _tile(query, log_weights, 64)
    whole = max(1, table.shape[2] * keys.shape[2])
    _launch(tile, query, starts, keys, values, table, lengths, log_weights, out, lse, scaling, causal, whole)
    return out, lse


def _launch(
    tile: Tile,
    query: torch.Tensor,
    starts: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    table: torch.Tensor,
    lengths: torch.Tensor,
    log_weights: torch.Tensor | None,
    out: torch.Tensor,
    lse: torch.Tensor,
    scaling: float,
    causal: bool,
    split: int,
    parts: int = 1,
) -> None:
    """Fill ``out`` and ``lse``, ``[parts, ..]`` where there are several, each of ``split`` keys."""
    rows, heads, head_dim = query.shape
    kv_heads, page_tokens = keys.shape[1:3]
    group, sequences = heads // kv_heads, len(lengths)
    launch(
        _attend,
        (rows * group // tile.constants["block_rows"] + sequences, kv_heads, parts),
        tile,
        query,
        starts,
        keys,
        values,
        table,
        lengths,
        lse if log_weights is None else log_weights,
        out,
        lse,
        scaling,
        sequences,
        rows,
        kv_heads,
        group,
        head_dim,
        page_tokens,
        table.shape[2],
        split,
        int(causal),
    )


def _tile(query: torch.Tensor, log_weights: torch.Tensor | None, rows: int) -> Tile:
    """Return the tile for up to ``rows`` rows: as large as leaves registers, by what docs/kernels-gpu.md shows."""
    exact, wide = query.dtype == torch.float32, power_of_two(query.shape[2], 64)
    constants = {
        "weighted": log_weights is not None,
        "block_rows": min(rows, 16 if exact else 64 if wide <= 128 else 32),
        "block_keys": 16 if exact else 32,
        "block_dim": wide,
    }
    warps, stages = 4 if wide == 64 else 8, 1 if exact else 2
    return Tile(constants, warps, stages, fused=True, registers=255)
