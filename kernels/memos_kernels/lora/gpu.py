"""Adapters in Triton: rows of A for 16 tokens at a time, rows of B for one token, walked in its own order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from memos_kernels.lora.plan import LoraPlan, RankRows
from memos_kernels.triton_mode import Tile, launch
from memos_kernels.triton_ragged import owner

#: Programs that share the ranks of an adapter, 16 at a time.
_RANK_PROGRAMS = 4
#: Uses of one adapter that are multiplied together.
_USES = 16
_EXPAND = Tile({"block_ranks": 16, "block_columns": 128}, warps=4, stages=2, fused=True)


@triton.jit
def _shrink(
    x: tl.tensor,
    pool: tl.tensor,
    slots: tl.tensor,
    row_starts: tl.tensor,
    tokens: tl.tensor,
    adapters: tl.tensor,
    offsets: tl.tensor,
    segments: tl.tensor,
    y: tl.tensor,
    runs: tl.tensor,
    chunks: tl.tensor,
    width: tl.tensor,
    block_uses: tl.constexpr,
    block_ranks: tl.constexpr,
    block_columns: tl.constexpr,
) -> None:
    run = owner(segments, runs, 1, tl.program_id(0), block_uses)
    begin = tl.load(segments + run)
    end = tl.load(segments + run + 1)
    first = begin + (tl.program_id(0) - begin // block_uses - run) * block_uses
    if first >= end:
        return
    use = first + tl.arange(0, block_uses)
    real = use < end
    adapter = tl.load(adapters + first)
    rank_row = tl.load(row_starts + adapter)
    ranks = tl.load(row_starts + adapter + 1) - rank_row
    row = tl.load(tokens + use, mask=real, other=0).to(tl.int64) * chunks * width
    target = tl.load(offsets + use, mask=real, other=0)
    for start in range(tl.program_id(1) * block_ranks, ranks, tl.num_programs(1) * block_ranks):
        rank = start + tl.arange(0, block_ranks)
        summed = tl.zeros([block_uses, block_ranks], tl.float32)
        for chunk in range(chunks):
            slot = tl.load(slots + (rank_row + rank).to(tl.int64) * chunks + chunk, mask=rank < ranks, other=0)
            rows = pool + slot.to(tl.int64) * width
            for at in range(0, width, block_columns):
                column = at + tl.arange(0, block_columns)[None, :]
                a = tl.load(rows[:, None] + column, mask=(rank < ranks)[:, None] & (column < width), other=0.0)
                here = x + row[:, None] + (chunk * width + column)
                summed = tl.dot(
                    tl.load(here, mask=real[:, None] & (column < width), other=0.0),
                    tl.trans(a),
                    summed,
                    input_precision="ieee",
                )
        tl.store(y + target[:, None] + rank[None, :], summed, mask=real[:, None] & (rank < ranks)[None, :])


@triton.jit
def _expand(
    y: tl.tensor,
    pool: tl.tensor,
    slots: tl.tensor,
    row_starts: tl.tensor,
    adapters: tl.tensor,
    weights: tl.tensor,
    offsets: tl.tensor,
    by_token: tl.tensor,
    token_starts: tl.tensor,
    out: tl.tensor,
    chunks: tl.tensor,
    width: tl.tensor,
    parts: tl.tensor,
    block_ranks: tl.constexpr,
    block_columns: tl.constexpr,
) -> None:
    token = tl.program_id(0) // parts // chunks
    chunk = tl.program_id(0) // parts % chunks
    begin = tl.load(token_starts + token)
    end = tl.load(token_starts + token + 1)
    if begin == end:
        return
    column = tl.program_id(0) % parts * block_columns + tl.arange(0, block_columns)
    inside = column < width
    total = tl.zeros([block_columns], tl.float32)
    for at in range(begin, end):
        use = tl.load(by_token + at)
        adapter = tl.load(adapters + use)
        rank_row = tl.load(row_starts + adapter)
        ranks = tl.load(row_starts + adapter + 1) - rank_row
        source = y + tl.load(offsets + use)
        summed = tl.zeros([block_columns], tl.float32)
        for start in range(0, ranks, block_ranks):
            rank = start + tl.arange(0, block_ranks)
            slot = tl.load(slots + (rank_row + rank).to(tl.int64) * chunks + chunk, mask=rank < ranks, other=0)
            rows = pool + slot.to(tl.int64)[:, None] * width + column[None, :]
            b = tl.load(rows, mask=(rank < ranks)[:, None] & inside[None, :], other=0.0).to(tl.float32)
            summed += tl.sum(tl.load(source + rank, mask=rank < ranks, other=0.0)[:, None] * b, 0)
        total += tl.load(weights + use) * summed
    target = out + (token.to(tl.int64) * chunks + chunk) * width + column
    total += tl.load(target, mask=inside, other=0.0).to(tl.float32)
    tl.store(target, total.to(out.dtype.element_ty), mask=inside)


def lora_shrink(x: torch.Tensor, pool: torch.Tensor, down: RankRows, plan: LoraPlan) -> torch.Tensor:
    """See :func:`memos_kernels.lora.lora_shrink`."""
    y = torch.empty(plan.ranks, device=x.device)
    # Columns worth 256 bytes, whatever the dtype.
    constants = {"block_uses": _USES, "block_ranks": 16, "block_columns": 256 // x.element_size()}
    runs, uses = len(plan.segments) - 1, len(plan.tokens)
    launch(
        _shrink,
        (uses // _USES + runs, _RANK_PROGRAMS),
        Tile(constants, warps=4, stages=3, fused=True),
        x,
        pool,
        down.slots.contiguous(),
        down.starts,
        plan.tokens,
        plan.adapters,
        plan.offsets,
        plan.segments,
        y,
        runs,
        down.slots.shape[1],
        pool.shape[1],
    )
    return y


def lora_expand(y: torch.Tensor, pool: torch.Tensor, up: RankRows, plan: LoraPlan, out: torch.Tensor) -> None:
    """See :func:`memos_kernels.lora.lora_expand`."""
    chunks, width = up.slots.shape[1], pool.shape[1]
    parts = triton.cdiv(width, _EXPAND.constants["block_columns"])
    launch(
        _expand,
        (len(out) * chunks * parts,),
        _EXPAND,
        y,
        pool,
        up.slots.contiguous(),
        up.starts,
        plan.adapters,
        plan.weights,
        plan.offsets,
        plan.by_token,
        plan.token_starts,
        out,
        chunks,
        width,
        parts,
    )
