"""Decoding in numba: one row of queries for each sequence, so that the vectors run along ``head_dim``.

The items, spans and blocks are those of :mod:`memos_kernels.attention.cpu`; with so few columns its tiles would be
mostly empty. Here a query meets four keys at a time, and four values are added to an output at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from memos_kernels.attention.items import BLOCK, NOTHING, SPAN, run_from, segment
from memos_kernels.rows import axpys_1, axpys_4, convert_row, dots_1, dots_4, floats, scale_row, soften_row
from memos_kernels.simd import prefetch
from memos_kernels.threads import Work, finish, take

_ZERO = np.float32(0)

Floats = NDArray[np.float32]
Words = NDArray[Any]
Ints = NDArray[np.int32]


@njit(cache=True, nogil=True, error_model="numpy")
def decode(
    work: Work,
    items: Ints,
    shape: tuple[int, int, int, int, bool],
    scaling: np.float32,
    query: Words,
    starts: Ints,
    keys: Words,
    values: Words,
    table: NDArray[np.int32],
    lengths: Ints,
    weights: Floats,
    partial: Floats,
    mass: Floats,
) -> None:
    """Do the items of :func:`memos_kernels.attention.cpu.attend` where every sequence has one row."""
    heads, kv_heads, size, head_dim, _ = shape
    group = heads // kv_heads
    queries, output = np.empty(group * head_dim, np.float32), np.empty(group * head_dim, np.float32)
    room, scores = np.empty(BLOCK * head_dim, np.float32), np.empty(group * BLOCK, np.float32)
    highest, total, shrink = np.empty(group, np.float32), np.empty(group, np.float32), np.empty(group, np.float32)
    item = take(work)
    while item < work[2]:
        b, head, row, _, span = items[item]
        at = (row * heads + head * group) * head_dim
        convert_row(query, at, queries, 0, group * head_dim)
        scale_row(queries, 0, group * head_dim, scaling, queries, 0)
        highest[:], total[:], output[:] = NOTHING, _ZERO, _ZERO
        stop = min(lengths[b], (span + 1) * SPAN)
        for block in range(span * SPAN, stop, BLOCK):
            tokens = min(BLOCK, stop - block)
            scores[:] = _ZERO
            t = 0
            while t < tokens:
                run = run_from(table[b, 0], block + t, tokens - t, kv_heads, size)
                place = segment(table[b, 0], block + t, head, kv_heads, size)
                soon = segment(table[b, 1], block + t, head, kv_heads, size) * head_dim
                rows, first = floats(keys, place * head_dim, run * head_dim, room)
                _score(rows, first, run, head_dim, queries, group, scores, t, values, soon)
                if len(weights):
                    for i in range(run):
                        for m in range(group):
                            scores[m * BLOCK + t + i] += weights[place + i]
                t += run
            for m in range(group):
                soften_row(scores, m * BLOCK, tokens, highest, total, shrink, m)
                scale_row(output, m * head_dim, head_dim, shrink[m], output, m * head_dim)
            coming = block + BLOCK if block + 2 * BLOCK <= stop else block
            t = 0
            while t < tokens:
                run = run_from(table[b, 1], block + t, tokens - t, kv_heads, size)
                place = segment(table[b, 1], block + t, head, kv_heads, size)
                soon = segment(table[b, 0], coming + t, head, kv_heads, size) * head_dim
                rows, first = floats(values, place * head_dim, run * head_dim, room)
                _add(rows, first, run, head_dim, scores, t, group, output, keys, soon)
                t += run
        for m in range(group):
            if highest[m] != NOTHING:
                place = ((span * partial.shape[1] + row) * heads + head * group + m) * head_dim
                scale_row(output, m * head_dim, head_dim, np.float32(1) / total[m], partial.reshape(-1), place)
                mass[span, row, head * group + m] = highest[m] + np.float32(np.log(total[m]))
        finish(work)
        item = take(work)


@njit(cache=True, nogil=True, error_model="numpy")
def _score(
    rows: Floats,
    first: int,
    run: int,
    head_dim: int,
    queries: Floats,
    group: int,
    scores: Floats,
    t: int,
    ahead: Words,
    soon: int,
) -> None:
    """Add the scores of some keys to ``scores[m, t]``, fetching as many values meanwhile."""
    i = 0
    while i < run:
        at = first + i * head_dim
        if i + 4 <= run:
            prefetch(ahead, soon + i * head_dim, 4 * head_dim)
            four = (at, at + head_dim, at + 2 * head_dim, at + 3 * head_dim)
            for m in range(group):
                dots_4(queries, m * head_dim, rows, four, head_dim, scores, m * BLOCK + t + i)
            i += 4
        else:
            for m in range(group):
                dots_1(queries, m * head_dim, rows, (at,), head_dim, scores, m * BLOCK + t + i)
            i += 1


@njit(cache=True, nogil=True, error_model="numpy")
def _add(
    rows: Floats,
    first: int,
    run: int,
    head_dim: int,
    scores: Floats,
    t: int,
    group: int,
    output: Floats,
    ahead: Words,
    soon: int,
) -> None:
    """Add some values by their weights to ``output[m, d]``, fetching as many keys meanwhile."""
    i = 0
    while i < run:
        at = first + i * head_dim
        if i + 4 <= run:
            prefetch(ahead, soon + i * head_dim, 4 * head_dim)
            four = (at, at + head_dim, at + 2 * head_dim, at + 3 * head_dim)
            for m in range(group):
                s = m * BLOCK + t + i
                axpys_4(
                    (scores[s], scores[s + 1], scores[s + 2], scores[s + 3]), rows, four, head_dim, output, m * head_dim
                )
            i += 4
        else:
            for m in range(group):
                axpys_1((scores[m * BLOCK + t + i],), rows, (at,), head_dim, output, m * head_dim)
            i += 1
