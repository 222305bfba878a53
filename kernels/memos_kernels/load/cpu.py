"""The load path in numba: each page is decoded and turned in the first-level cache, then streamed to its place."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from memos_kernels.attention.items import segment
from memos_kernels.pages.cpu import LARGE
from memos_kernels.quantise import QuantisedPages
from memos_kernels.rows import convert_row, keys_row_4, keys_row_8, values_row_4, values_row_8
from memos_kernels.simd import address, copy, prefetch, widen, words
from memos_kernels.threads import Work, finish, launch, take

#: Tokens decoded before they are streamed away: few, so that the next are decoded while those still leave.
ROWS = 16

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
    room = np.empty(ROWS * head_dim, out.dtype)
    least, step = np.empty(head_dim, np.float32), np.empty(head_dim, np.float32)
    item = take(work)
    while item < work[2]:
        layer, first = item // blocks, item % blocks * page_tokens
        page, run = np.int64(table[layer, item % blocks]), min(page_tokens, tokens - first)
        coming = np.int64(table[layer, min(item % blocks + 1, blocks - 1)])
        for head in range(heads):
            matrix, width = page * heads + head, page_tokens * head_dim * bits // 8
            code = matrix * width
            ahead = (coming * heads + head) * width
            convert_row(key_ranges, 2 * matrix * head_dim, least, 0, head_dim)
            convert_row(key_ranges, (2 * matrix + 1) * head_dim, step, 0, head_dim)
            t = 0
            while t < run:
                # Tokens of the page that go to one page.
                count = min(run - t, size - (first + t) % size)
                to = segment(out_table[layer, 0], first + t, head, heads, size) * head_dim
                angle = (first + t) * head_dim // 2 if each else 0
                begin = code + t * head_dim * bits // 8
                _keys(
                    keys,
                    begin,
                    count,
                    head_dim,
                    bits,
                    least,
                    step,
                    cosine,
                    sine,
                    angle,
                    each,
                    room,
                    out,
                    to,
                    past,
                    ahead,
                )
                to = segment(out_table[layer, 1], first + t, head, heads, size) * head_dim
                at = 2 * matrix * page_tokens + t
                _values(values, begin, count, head_dim, bits, value_ranges, at, page_tokens, room, out, to, past, ahead)
                t += count
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
    angle: int,
    each: bool,
    room: Words,
    out: Words,
    to: int,
    past: bool,
    ahead: int,
) -> None:
    """Decode and turn keys of one head, from ``at`` on, write them to ``to``, and ask for those at ``ahead``."""
    half, width = head_dim // 2, head_dim * bits // 8
    for first in range(0, run, ROWS):
        rows = min(ROWS, run - first)
        prefetch(codes, ahead + first * width, rows * width)
        for t in range(first, first + rows):
            here, turn = (t - first) * head_dim, angle + t * half if each else 0
            if bits == 8:
                keys_row_8(codes, at + t * head_dim, least, step, cosine, sine, turn, room, here, half)
            else:
                keys_row_4(codes, at + t * half, least, step, cosine, sine, turn, room, here, half)
        copy(address(out, to + first * head_dim), address(room, 0), rows * head_dim * out.itemsize, past)


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
    out: Words,
    to: int,
    past: bool,
    ahead: int,
) -> None:
    """Decode values of one head likewise."""
    half, width = head_dim // 2, head_dim * bits // 8
    for first in range(0, run, ROWS):
        rows = min(ROWS, run - first)
        prefetch(codes, ahead + first * width, rows * width)
        for t in range(first, first + rows):
            least, step = widen(ranges[ranges_at + t]), widen(ranges[ranges_at + page_tokens + t])
            here = (t - first) * head_dim
            if bits == 8:
                values_row_8(codes, at + t * head_dim, least, step, room, here, half)
            else:
                values_row_4(codes, at + t * half, least, step, room, here, half)
        copy(address(out, to + first * head_dim), address(room, 0), rows * head_dim * out.itemsize, past)
