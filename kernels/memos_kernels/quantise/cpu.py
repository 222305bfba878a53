"""Quantisation in numba: a page at a time, ranges first, then codes and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from memos_kernels.quantise import ErrorStatistics, QuantisedPages
from memos_kernels.simd import narrow, widen, words
from memos_kernels.threads import Work, finish, launch, take

_ZERO = np.float32(0)
_HALF = np.float32(0.5)

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Halves = NDArray[np.int16]
Words = NDArray[Any]


def quantise_pages(
    cache: torch.Tensor,
    into: QuantisedPages,
    table: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    turn: bool,
) -> ErrorStatistics:
    """See :func:`memos_kernels.quantise.quantise_pages`."""
    layers, _, heads, tokens, head_dim = cache.shape
    blocks = -(-tokens // into.page_tokens)
    largest, squared = np.zeros((layers, blocks, 2), np.float32), np.zeros((layers, blocks, 2))
    launch(
        _quantise, layers * blocks, 4 * cache.nbytes, words(cache), words(into.keys), words(into.key_ranges),
        words(into.values), words(into.value_ranges), table.numpy(), words(cosine), words(sine),
        (heads, head_dim, tokens, into.page_tokens, into.bits), turn, len(cosine) > 1, largest, squared,
    )  # fmt: skip
    elements = max(1, heads * tokens * head_dim)
    return ErrorStatistics(
        torch.from_numpy(largest.max(axis=1, initial=0)), torch.from_numpy(squared.sum(axis=1) / elements).float()
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _quantise(
    work: Work,
    cache: Words,
    keys: Bytes,
    key_ranges: Halves,
    values: Bytes,
    value_ranges: Halves,
    table: NDArray[np.int32],
    cosine: Floats,
    sine: Floats,
    shape: tuple[int, int, int, int, int],
    turn: bool,
    each: bool,
    largest: Floats,
    squared: NDArray[np.float64],
) -> None:
    heads, head_dim, tokens, size, bits = shape
    half, blocks = head_dim // 2, -(-tokens // size)
    room = np.empty((size, head_dim), np.float32)
    item = take(work)
    while item < work[2]:
        layer, block = item // blocks, item % blocks
        run = min(size, tokens - block * size)
        for head in range(heads):
            matrix = np.int64(table[layer, block]) * heads + head
            for side in range(2):
                source = (((layer * 2 + side) * heads + head) * tokens + block * size) * head_dim
                for t in range(run):
                    for d in range(head_dim):
                        room[t, d] = widen(cache[source + t * head_dim + d])
                if side == 0:
                    if turn:
                        for t in range(run):
                            _turn(room[t], cosine, sine, (block * size + t) * half if each else 0)
                    error = _code(room.T[:, :run], key_ranges, 2 * matrix * head_dim, head_dim, bits)
                    _pack(room, run, size, bits, keys, matrix * size * head_dim * bits // 8)
                else:
                    error = _code(room[:run], value_ranges, 2 * matrix * size, size, bits)
                    _pack(room, run, size, bits, values, matrix * size * head_dim * bits // 8)
                # A maximum passes over what is not a number.
                if not error[0] <= largest[layer, block, side]:
                    largest[layer, block, side] = error[0]
                squared[layer, block, side] += error[1]
        finish(work)
        item = take(work)


@njit(cache=True, nogil=True, error_model="numpy")
def _turn(row: Floats, cosine: Floats, sine: Floats, angle: int) -> None:
    half = len(row) // 2
    for d in range(half):
        one, other = row[d], row[half + d]
        row[d] = one * cosine[angle + d] - other * sine[angle + d]
        row[half + d] = other * cosine[angle + d] + one * sine[angle + d]


@njit(cache=True, nogil=True, error_model="numpy")
def _code(groups: Floats, ranges: Halves, at: int, count: int, bits: int) -> tuple[np.float32, float]:
    """Replace each group, a row, by its codes, and write its range; rows after them up to ``count`` get 0.

    Returns the largest error, infinite if a range is not finite in float16, and the sum of squared errors.
    """
    top = np.float32(2**bits - 1)
    worst, total = _ZERO, 0.0
    for group in range(count):
        low = high = _ZERO
        if group < len(groups) and groups.shape[1]:
            low = high = groups[group, 0]
            for i in range(groups.shape[1]):
                low, high = min(low, groups[group, i]), max(high, groups[group, i])
        ranges[at + group] = narrow(low, ranges)
        ranges[at + count + group] = narrow((high - low) / top, ranges)
        least, step = widen(ranges[at + group]), widen(ranges[at + count + group])
        if group < len(groups):
            for i in range(groups.shape[1]):
                value = groups[group, i]
                code = np.floor((value - least) / step + _HALF) if step > _ZERO else _ZERO
                code = min(max(code, _ZERO), top)
                error = abs(value - (code * step + least))
                if not error < np.inf:
                    error = np.float32(np.inf)
                worst = max(worst, error)
                total += error * error
                groups[group, i] = code
    return worst, total


@njit(cache=True, nogil=True, error_model="numpy")
def _pack(room: Floats, run: int, size: int, bits: int, codes: Bytes, at: int) -> None:
    """Write the codes of one head of a page, zeros after the last token."""
    head_dim = room.shape[1]
    half = head_dim // 2
    for t in range(size):
        for d in range(half):
            one = np.uint8(room[t, d]) if t < run else np.uint8(0)
            other = np.uint8(room[t, half + d]) if t < run else np.uint8(0)
            if bits == 8:
                codes[at + t * head_dim + d], codes[at + t * head_dim + half + d] = one, other
            else:
                codes[at + t * half + d] = one | other << np.uint8(4)
