"""The load path in numba: each page is decoded and turned in the first-level cache, then streamed to its place."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from memos_kernels.pages.cpu import LARGE
from memos_kernels.quantise import QuantisedPages
from memos_kernels.rows import convert_row, keys_row_4, keys_row_8, values_row_4, values_row_8
from memos_kernels.simd import address, copy, widen, words
from memos_kernels.threads import Work, finish, launch, take

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Halves = NDArray[np.int16]
Words = NDArray[Any]


def dequant_rotate_gather(
    source: QuantisedPages,
    table: torch.Tensor,
    tokens: int,
    out: torch.Tensor,
    out_table: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    turn: bool,
) -> None:
    """See :func:`memos_kernels.load.dequant_rotate_gather`."""
    heads, size, head_dim = out.shape[1:]
    blocks = -(-tokens // source.page_tokens)
    written = 2 * len(table) * heads * tokens * head_dim * out.element_size()
    launch(
        _load, len(table) * blocks, 2 * written, words(source.keys), words(source.key_ranges), words(source.values),
        words(source.value_ranges), table.numpy(), words(out), out_table.numpy(), words(cosine), words(sine),
        (heads, head_dim, tokens, source.page_tokens, size, source.bits), (len(cosine) > 1, written >= LARGE),
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _load(
    work: Work,
    keys: Bytes,
    key_ranges: Halves,
    values: Bytes,
    value_ranges: Halves,
    table: NDArray[np.int32],
    out: Words,
    out_table: NDArray[np.int32],
    cosine: Floats,
    sine: Floats,
    shape: tuple[int, int, int, int, int, int],
    flags: tuple[bool, bool],
) -> None:
    heads, head_dim, tokens, page_tokens, size, bits = shape
    each, past = flags
    blocks = -(-tokens // page_tokens)
    room = np.empty(page_tokens * head_dim, out.dtype)
    least, step = np.empty(head_dim, np.float32), np.empty(head_dim, np.float32)
    item = take(work)
    while item < work[2]:
        layer, first = item // blocks, item % blocks * page_tokens
        run = min(page_tokens, tokens - first)
        for head in range(heads):
            matrix = np.int64(table[layer, item % blocks]) * heads + head
            code = matrix * page_tokens * head_dim * bits // 8
            convert_row(key_ranges, 2 * matrix * head_dim, least, 0, head_dim)
            convert_row(key_ranges, (2 * matrix + 1) * head_dim, step, 0, head_dim)
            _keys(keys, code, run, head_dim, bits, least, step, cosine, sine, first if each else 0, each, room)
            _place(room, run, first, head, heads, head_dim, size, out, out_table[layer, 0], past)
            _values(values, code, run, head_dim, bits, value_ranges, 2 * matrix * page_tokens, page_tokens, room)
            _place(room, run, first, head, heads, head_dim, size, out, out_table[layer, 1], past)
        finish(work)
        item = take(work)


@njit(cache=True, nogil=True, error_model="numpy")
def _keys(
    codes: Bytes,
    at: int,
    run: int,
    head_dim: int,
    bits: int,
    least: Floats,
    step: Floats,
    cosine: Floats,
    sine: Floats,
    angle_row: int,
    each: bool,
    room: Words,
) -> None:
    """Decode and turn the keys of one head of a page."""
    half = head_dim // 2
    for t in range(run):
        angle, to = (angle_row + t) * half if each else 0, t * head_dim
        if bits == 8:
            keys_row_8(codes, at + to, least, step, cosine, sine, angle, room, to, half)
        else:
            keys_row_4(codes, at + t * half, least, step, cosine, sine, angle, room, to, half)


@njit(cache=True, nogil=True, error_model="numpy")
def _values(
    codes: Bytes,
    at: int,
    run: int,
    head_dim: int,
    bits: int,
    ranges: Halves,
    ranges_at: int,
    page_tokens: int,
    room: Words,
) -> None:
    """Decode the values of one head of a page."""
    half = head_dim // 2
    for t in range(run):
        least, step = widen(ranges[ranges_at + t]), widen(ranges[ranges_at + page_tokens + t])
        if bits == 8:
            values_row_8(codes, at + t * head_dim, least, step, room, t * head_dim, half)
        else:
            values_row_4(codes, at + t * half, least, step, room, t * head_dim, half)


@njit(cache=True, nogil=True, error_model="numpy")
def _place(
    room: Words,
    run: int,
    first: int,
    head: int,
    heads: int,
    head_dim: int,
    size: int,
    out: Words,
    pages: NDArray[np.int32],
    past: bool,
) -> None:
    """Copy decoded tokens to the pages they belong to."""
    t = 0
    while t < run:
        slot = (first + t) % size
        count = min(run - t, size - slot)
        to = ((np.int64(pages[(first + t) // size]) * heads + head) * size + slot) * head_dim
        copy(address(out, to), address(room, t * head_dim), count * head_dim * out.itemsize, past)
        t += count
