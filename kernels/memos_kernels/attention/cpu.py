"""Attention over pages in numba: FlashAttention's online softmax on blocks that stay in the first-level cache.

Everything is transposed: queries are columns. ``S = K Q'`` multiplies rows of keys, as they lie in a page, with a small
packed matrix of queries; softmax runs down columns, so that neighbouring lanes are neighbouring queries and nothing is
summed across a register; ``O' = V' P`` takes values as they lie. So neither keys nor values are copied or packed.

Where every sequence has one row, :mod:`memos_kernels.attention.decode` does it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from memos_kernels.attention.decode import decode
from memos_kernels.attention.items import BLOCK, COLUMNS, NOTHING, SPAN, plan, segment
from memos_kernels.lse.cpu import merged
from memos_kernels.rows import floats
from memos_kernels.simd import (
    prefetch,
    scale_columns,
    soften,
    tile_1x8,
    tile_1x24,
    tile_4x24,
    tile_8x8,
    widen,
    words,
)
from memos_kernels.threads import Work, finish, launch, take

_ZERO = np.float32(0)
_ONE = np.float32(1)
_NO_WEIGHTS = np.zeros(0, np.float32)

Floats = NDArray[np.float32]
Words = NDArray[Any]


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
    rows, heads, head_dim = query.shape
    kv_heads, size = keys.shape[1:3]
    longest = int(lengths.max()) if lengths.shape[0] else 0
    spans = max(1, -(-longest // SPAN))
    each = max(1, COLUMNS // (heads // kv_heads))
    sizes = (rows, keys.shape[0], kv_heads, size, each)
    items = plan(starts.numpy(), lengths.numpy(), table.numpy(), sizes, spans, causal)
    out, lse = torch.zeros_like(query), torch.full((rows, heads), -np.inf)
    # One span of float32 is written where it belongs; others are joined from parts.
    whole = spans == 1 and query.dtype == torch.float32
    shape = (spans, rows, heads, head_dim)
    partial = words(out).reshape(shape) if whole else np.empty(shape, np.float32)
    mass = lse.numpy()[None] if whole else np.full(shape[:3], -np.inf, np.float32)
    launch(
        decode if items[:, 3].max(initial=1) == 1 else attend,
        len(items),
        rows * heads * longest * head_dim,
        items,
        (heads, kv_heads, size, head_dim, causal),
        np.float32(scaling),
        words(query),
        starts.numpy(),
        words(keys),
        words(values),
        table.numpy(),
        lengths.numpy(),
        _NO_WEIGHTS if log_weights is None else words(log_weights),
        partial,
        mass,
    )
    if not whole:
        merged(partial.reshape(spans, -1, head_dim), mass.reshape(spans, -1), words(out), words(lse))
    return out, lse


paged_attention_decode = paged_attention_prefill


@njit(cache=True, nogil=True, error_model="numpy")
def attend(
    work: Work,
    items: NDArray[np.int32],
    shape: tuple[int, int, int, int, bool],
    scaling: np.float32,
    query: Words,
    starts: NDArray[np.int32],
    keys: Words,
    values: Words,
    table: NDArray[np.int32],
    lengths: NDArray[np.int32],
    weights: Floats,
    partial: Floats,
    mass: Floats,
) -> None:
    heads, kv_heads, size, head_dim, causal = shape
    group = heads // kv_heads
    room = np.empty(BLOCK * head_dim, np.float32)
    packed = np.empty(head_dim * (COLUMNS + 8 + group), np.float32)
    output = np.empty(head_dim * (COLUMNS + 8 + group), np.float32)
    scores = np.empty(BLOCK * (COLUMNS + 8 + group), np.float32)
    highest = np.empty(COLUMNS + 8 + group, np.float32)
    total = np.empty(COLUMNS + 8 + group, np.float32)
    shrink = np.empty(COLUMNS + 8 + group, np.float32)
    limits = np.empty(COLUMNS + 8 + group, np.int32)
    item = take(work)
    while item < len(items):
        b, head, first, rows, span = items[item]
        columns = rows * group
        width = -(-columns // 8) * 8
        pack_queries(query, first * heads + head * group, rows, heads, group, head_dim, scaling, packed, width)
        length = lengths[b]
        for m in range(width):
            limits[m] = length - (starts[b + 1] - 1 - (first + m // group)) if causal and m < columns else length
            highest[m], total[m] = NOTHING, _ZERO
        output[: head_dim * width] = _ZERO
        stop = min(limits[max(columns - 1, 0)], (span + 1) * SPAN)
        for block in range(span * SPAN, stop, BLOCK):
            tokens = min(BLOCK, stop - block)
            block_scores(
                keys, table[b, 0], head, kv_heads, size, head_dim, block, tokens, packed, width, weights, room, scores,
                values, table[b, 1], block,
            )  # fmt: skip
            _mask(scores, limits, block, tokens, width)
            for m in range(0, width, 8):
                soften(scores, m, tokens, width, highest, total, shrink, m)
                scale_columns(output, m, head_dim, width, shrink, m)
            coming = block + BLOCK if block + 2 * BLOCK <= stop else block
            _add_values(
                values, table[b, 1], head, kv_heads, size, head_dim, block, tokens, scores, width, room, output,
                keys, table[b, 0], coming,
            )  # fmt: skip
        _finish(output, highest, total, width, columns, group, head_dim, first, head, partial[span], mass[span])
        finish(work)
        item = take(work)


@njit(cache=True, nogil=True, error_model="numpy")
def pack_queries(
    query: Words,
    at: int,
    rows: int,
    heads: int,
    group: int,
    head_dim: int,
    scaling: np.float32,
    packed: Floats,
    width: int,
) -> None:
    """Write the scaled queries of a group as columns, ``packed[d, row * group + member]``, zeros after them."""
    for d in range(head_dim):
        for m in range(rows * group, width):
            packed[d * width + m] = _ZERO
    for row in range(rows):
        for member in range(group):
            source = (at + row * heads + member) * head_dim
            for d in range(head_dim):
                packed[d * width + row * group + member] = widen(query[source + d]) * scaling


@njit(cache=True, nogil=True, error_model="numpy")
def block_scores(
    keys: Words,
    pages: NDArray[np.int32],
    head: int,
    kv_heads: int,
    size: int,
    head_dim: int,
    block: int,
    tokens: int,
    packed: Floats,
    width: int,
    weights: Floats,
    room: Floats,
    scores: Floats,
    ahead: Words,
    ahead_pages: NDArray[np.int32],
    ahead_block: int,
) -> None:
    """Write ``scores[t, m]`` of some tokens of one head against the packed queries, page by page.

    Meanwhile fetch as many tokens of ``ahead`` from ``ahead_block`` on, which the caller needs next.
    """
    t = 0
    while t < tokens:
        run = min(tokens - t, size - (block + t) % size)
        place = segment(pages, block + t, head, kv_heads, size)
        soon = segment(ahead_pages, ahead_block + t, head, kv_heads, size) * head_dim
        rows, at = floats(keys, place * head_dim, run * head_dim, room)
        multiply(
            rows, at, head_dim, 1, run, packed, 0, width, scores, t * width, width, width, head_dim, True,
            ahead, soon, run * head_dim,
        )  # fmt: skip
        if len(weights):
            for i in range(run):
                weight = weights[place + i]
                for m in range(width):
                    scores[(t + i) * width + m] += weight
        t += run


@njit(cache=True, nogil=True, error_model="numpy")
def _add_values(
    values: Words,
    pages: NDArray[np.int32],
    head: int,
    kv_heads: int,
    size: int,
    head_dim: int,
    block: int,
    tokens: int,
    scores: Floats,
    width: int,
    room: Floats,
    output: Floats,
    ahead: Words,
    ahead_pages: NDArray[np.int32],
    ahead_block: int,
) -> None:
    """Add the values of a block, weighted by ``scores``, to ``output[d, m]``, fetching the next like the above."""
    t = 0
    while t < tokens:
        run = min(tokens - t, size - (block + t) % size)
        place = segment(pages, block + t, head, kv_heads, size)
        soon = segment(ahead_pages, ahead_block + t, head, kv_heads, size) * head_dim
        rows, at = floats(values, place * head_dim, run * head_dim, room)
        multiply(
            rows, at, 1, head_dim, head_dim, scores, t * width, width, output, 0, width, width, run, False,
            ahead, soon, run * head_dim,
        )  # fmt: skip
        t += run


@njit(cache=True, nogil=True, error_model="numpy")
def multiply(
    a: Floats,
    a_at: int,
    a_row: int,
    a_column: int,
    rows: int,
    b: Floats,
    b_at: int,
    b_row: int,
    c: Floats,
    c_at: int,
    c_row: int,
    columns: int,
    depth: int,
    fresh: bool,
    ahead: Words,
    ahead_at: int,
    ahead_count: int,
) -> None:
    """``c[i, j] += sum_k a[i, k] b[k, j]``, or ``=`` if ``fresh``; ``columns`` is a multiple of 8.

    Fetches ``ahead_count`` elements of ``ahead`` meanwhile, a little before each tile: pages lie anywhere, which
    hardware cannot guess, and all at once would wait for memory.
    """
    share = ahead_count // rows
    wide = columns - columns % 24
    for j in range(0, columns, 8):
        start, first, i = c_at + j, j == 0, 0
        if j < wide and j % 24:
            continue
        while i < rows:
            left = a_at + i * a_row
            below = start + i * c_row
            most = 4 if j < wide else 8
            step = most if i + most <= rows else 1
            if first:
                prefetch(ahead, ahead_at + i * share, step * share)
            if j < wide and step == 4:
                tile_4x24(a, left, a_row, a_column, b, b_at + j, b_row, c, below, c_row, depth, fresh)
            elif j < wide:
                tile_1x24(a, left, a_row, a_column, b, b_at + j, b_row, c, below, c_row, depth, fresh)
            elif step == 8:
                tile_8x8(a, left, a_row, a_column, b, b_at + j, b_row, c, below, c_row, depth, fresh)
            else:
                tile_1x8(a, left, a_row, a_column, b, b_at + j, b_row, c, below, c_row, depth, fresh)
            i += step


@njit(cache=True, nogil=True, error_model="numpy")
def _mask(scores: Floats, limits: NDArray[np.int32], block: int, tokens: int, width: int) -> None:
    """Hide keys at or after a column's limit."""
    for m in range(width):
        for t in range(max(limits[m] - block, 0), tokens):
            scores[t * width + m] = -np.inf


@njit(cache=True, nogil=True, error_model="numpy")
def _finish(
    output: Floats,
    highest: Floats,
    total: Floats,
    width: int,
    columns: int,
    group: int,
    head_dim: int,
    first: int,
    head: int,
    partial: Floats,
    mass: Floats,
) -> None:
    for m in range(columns):
        row, member = first + m // group, head * group + m % group
        if highest[m] == NOTHING:
            continue
        share = _ONE / total[m]
        for d in range(head_dim):
            partial[row, member, d] = output[d * width + m] * share
        mass[row, member] = highest[m] + np.float32(np.log(total[m]))
