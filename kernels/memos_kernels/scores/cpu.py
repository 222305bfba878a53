"""Token scores in numba: the blocks of :mod:`memos_kernels.attention.cpu`, twice, with no values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from memos_kernels.attention.cpu import block_scores, pack_queries
from memos_kernels.attention.items import BLOCK, COLUMNS, SPAN
from memos_kernels.simd import exp, soften, words
from memos_kernels.threads import Work, finish, launch, take

_ZERO = np.float32(0)
_NOTHING = np.float32(-1e30)

Floats = NDArray[np.float32]
Words = NDArray[Any]
Shape = tuple[int, int, int, int, int, int, bool]


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
    kv_heads, size = keys.shape[1:3]
    spans = -(-length // SPAN)
    each = max(1, COLUMNS // (heads // kv_heads))
    shape = (rows, heads, kv_heads, size, head_dim, length, causal)
    weights = np.zeros(0, np.float32) if log_weights is None else words(log_weights)
    common = (words(query), words(keys), table.numpy(), weights, np.float32(scaling), each, shape)
    cost = rows * heads * length * head_dim
    mass = np.full((spans, rows, heads), -np.inf, np.float32)
    launch(_masses, kv_heads * spans * -(-rows // each), cost, *common, mass)
    total = np.logaddexp.reduce(mass, axis=0)
    scores = torch.zeros(heads, length)
    launch(_sums, kv_heads * spans, cost, *common, total, scores.numpy())
    return scores


@njit(cache=True, nogil=True, error_model="numpy")
def _masses(
    work: Work,
    query: Words,
    keys: Words,
    pages: NDArray[np.int32],
    weights: Floats,
    scaling: np.float32,
    each: int,
    shape: Shape,
    mass: Floats,
) -> None:
    """Write the log-sum-exp of every row over each span."""
    rows, heads, kv_heads, size, head_dim, length, causal = shape
    group, groups = heads // kv_heads, -(-rows // each)
    room, packed, scores = _rooms(head_dim, group)
    state = np.empty((3, COLUMNS + 8 + group), np.float32)
    item = take(work)
    while item < work[2]:
        span, head, first = item // (kv_heads * groups), item // groups % kv_heads, item % groups * each
        count = min(each, rows - first)
        width = -(-count * group // 8) * 8
        pack_queries(query, first * heads + head * group, count, heads, group, head_dim, scaling, packed, width)
        state[0, :], state[1, :] = _NOTHING, _ZERO
        stop = min(length, (span + 1) * SPAN)
        for block in range(span * SPAN, stop, BLOCK):
            tokens = min(BLOCK, stop - block)
            block_scores(
                keys, pages, head, kv_heads, size, head_dim, block, tokens, packed, width, weights, room, scores,
                keys, pages, block,
            )  # fmt: skip
            _hide(scores, block, tokens, width, length - rows + first, group, causal)
            for m in range(0, width, 8):
                soften(scores, m, tokens, width, state[0], state[1], state[2], m)
        for m in range(count * group):
            if state[0, m] != _NOTHING:
                mass[span, first + m // group, head * group + m % group] = state[0, m] + np.log(state[1, m])
        finish(work)
        item = take(work)


@njit(cache=True, nogil=True, error_model="numpy")
def _sums(
    work: Work,
    query: Words,
    keys: Words,
    pages: NDArray[np.int32],
    weights: Floats,
    scaling: np.float32,
    each: int,
    shape: Shape,
    mass: Floats,
    out: Floats,
) -> None:
    """Add up the weights of each token of a span, block of rows after block of rows."""
    rows, heads, kv_heads, size, head_dim, length, causal = shape
    group = heads // kv_heads
    room, packed, scores = _rooms(head_dim, group)
    item = take(work)
    while item < work[2]:
        span, head = item // kv_heads, item % kv_heads
        stop = min(length, (span + 1) * SPAN)
        for first in range(0, rows, each):
            count = min(each, rows - first)
            width = -(-count * group // 8) * 8
            pack_queries(query, first * heads + head * group, count, heads, group, head_dim, scaling, packed, width)
            for block in range(span * SPAN, stop, BLOCK):
                tokens = min(BLOCK, stop - block)
                block_scores(
                    keys, pages, head, kv_heads, size, head_dim, block, tokens, packed, width, weights, room, scores,
                    keys, pages, block,
                )  # fmt: skip
                _hide(scores, block, tokens, width, length - rows + first, group, causal)
                for t in range(tokens):
                    for m in range(count * group):
                        member = head * group + m % group
                        out[member, block + t] += exp(scores[t * width + m] - mass[first + m // group, member])
        finish(work)
        item = take(work)


@njit(cache=True, nogil=True, error_model="numpy")
def _rooms(head_dim: int, group: int) -> tuple[Floats, Floats, Floats]:
    """Return room for keys as float32, packed queries and scores."""
    width = COLUMNS + 8 + group
    return (
        np.empty(BLOCK * head_dim, np.float32),
        np.empty(head_dim * width, np.float32),
        np.empty(BLOCK * width, np.float32),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _hide(scores: Floats, block: int, tokens: int, width: int, position: int, group: int, causal: bool) -> None:
    """Hide keys after each row; ``position`` is that of the first row."""
    if causal:
        for m in range(width):
            for t in range(max(position + m // group + 1 - block, 0), tokens):
                scores[t * width + m] = -np.inf
