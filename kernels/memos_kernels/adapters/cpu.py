"""The adapters of a step in numba: token by token, four ranks at a time, A and B of them read once, in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from memos_kernels.adapters.step import GROUP, AdapterStep
from memos_kernels.rows import axpys_1, axpys_4, convert_row, dots_1, dots_4
from memos_kernels.simd import words
from memos_kernels.threads import Work, finish, launch, take

#: Tokens in a piece of work.
RUN = 4

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Words = NDArray[Any]


def apply_adapters(x: torch.Tensor, pool: torch.Tensor, step: AdapterStep, module: int, out: torch.Tensor) -> None:
    """See :func:`memos_kernels.adapters.apply_adapters`."""
    width = pool.shape[1]
    launch(
        _apply, -(-step.tokens // RUN), int(step.work[module]) * (x.shape[1] + out.shape[1]), words(x), words(pool),
        step.pages, step.places, step.ranks, step.starts, step.adapters, step.weights, module, x.shape[1] // width,
        out.shape[1] // width, width, step.page_slots, words(out),
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _place(pages: Ints, page_slots: int, slot: int, width: int) -> Any:
    """Return where in the pool a slot of an adapter's run begins."""
    return (np.int64(pages[slot // page_slots]) * page_slots + slot % page_slots) * width


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _four(pages: Ints, page_slots: int, slot: int, apart: int, width: int) -> tuple[Any, Any, Any, Any]:
    """Return where four slots begin."""
    return (
        _place(pages, page_slots, slot, width),
        _place(pages, page_slots, slot + apart, width),
        _place(pages, page_slots, slot + 2 * apart, width),
        _place(pages, page_slots, slot + 3 * apart, width),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _shrink(
    x: Floats, pool: Words, pages: Ints, page_slots: int, slot: int, rows: int, chunks: int, width: int, inner: Floats
) -> None:
    """Write ``inner[r] = A[r] x`` for the rows of a group."""
    inner[:] = np.float32(0)
    for chunk in range(chunks):
        if rows == GROUP:
            at = _four(pages, page_slots, slot + chunk, chunks, width)
            dots_4(x, chunk * width, pool, at, width, inner, 0)
            continue
        for row in range(rows):
            single = (_place(pages, page_slots, slot + row * chunks + chunk, width),)
            dots_1(x, chunk * width, pool, single, width, inner, row)


@njit(cache=True, nogil=True, error_model="numpy")
def _expand(
    inner: Floats, pool: Words, pages: Ints, page_slots: int, slot: int, rows: int, chunks: int, width: int, out: Floats
) -> None:
    """Add ``sum_r inner[r] B[:, r]`` over the columns of a group."""
    for chunk in range(chunks):
        if rows == GROUP:
            at = _four(pages, page_slots, slot + chunk, chunks, width)
            axpys_4((inner[0], inner[1], inner[2], inner[3]), pool, at, width, out, chunk * width)
            continue
        for row in range(rows):
            single = (_place(pages, page_slots, slot + row * chunks + chunk, width),)
            axpys_1((inner[row],), pool, single, width, out, chunk * width)


@njit(cache=True, nogil=True, error_model="numpy")
def _apply(
    work: Work,
    x: Words,
    pool: Words,
    pages: NDArray[np.int32],
    places: NDArray[np.int32],
    ranks: NDArray[np.int32],
    starts: Ints,
    adapters: Ints,
    weights: Floats,
    module: int,
    inward: int,
    outward: int,
    width: int,
    page_slots: int,
    out: Words,
) -> None:
    row, total = np.empty(inward * width, np.float32), np.empty(outward * width, np.float32)
    inner = np.empty(GROUP, np.float32)
    item = take(work)
    while item < work[2]:
        for token in range(item * RUN, min((item + 1) * RUN, len(starts) - 1)):
            if starts[token] == starts[token + 1]:
                continue
            convert_row(x, np.int64(token) * inward * width, row, 0, inward * width)
            convert_row(out, np.int64(token) * outward * width, total, 0, outward * width)
            for use in range(starts[token], starts[token + 1]):
                adapter = adapters[use]
                mine, rank = pages[adapter], ranks[adapter, module]
                for group in range((rank + GROUP - 1) // GROUP):
                    slot, rows = np.int64(places[adapter, module, group]), min(GROUP, rank - group * GROUP)
                    _shrink(row, pool, mine, page_slots, slot, rows, inward, width, inner)
                    inner *= weights[use]
                    _expand(inner, pool, mine, page_slots, slot + rows * inward, rows, outward, width, total)
            convert_row(total, 0, out, np.int64(token) * outward * width, outward * width)
        finish(work)
        item = take(work)
