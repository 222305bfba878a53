"""Adapters in numba. Each is read once from memory: for its rank rows, in whatever pages, are all the cost there is."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from memos_kernels.lora.plan import LoraPlan, RankRows
from memos_kernels.rows import axpys_1, axpys_4, convert_row, dots_1, dots_4
from memos_kernels.simd import prefetch, words
from memos_kernels.threads import Work, finish, launch, take

#: How many rank rows ahead memory is asked for: enough to keep it busy.
AHEAD = 12
#: Uses, and tokens, in a piece of work.
RUN = 8

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Words = NDArray[Any]


def lora_shrink(x: torch.Tensor, pool: torch.Tensor, down: RankRows, plan: LoraPlan) -> torch.Tensor:
    """See :func:`memos_kernels.lora.lora_shrink`."""
    slots, starts, adapters, offsets = _arrays(down, plan)
    _check(starts, slots, pool.shape[0], adapters, offsets)
    y = torch.empty(plan.ranks)
    cost = plan.ranks * x.shape[1] * pool.element_size()
    launch(
        _shrink, -(-plan.tokens.shape[0] // RUN), cost, words(x.float()), words(pool), slots, starts,
        plan.tokens.numpy(), adapters, offsets, pool.shape[1], y.numpy(),
    )  # fmt: skip
    return y


def lora_expand(y: torch.Tensor, pool: torch.Tensor, up: RankRows, plan: LoraPlan, out: torch.Tensor) -> None:
    """See :func:`memos_kernels.lora.lora_expand`."""
    slots, starts, adapters, offsets = _arrays(up, plan)
    _check(starts, slots, pool.shape[0], adapters, offsets)
    cost = plan.ranks * out.shape[1] * pool.element_size()
    launch(
        _expand, -(-out.shape[0] // RUN), cost, y.numpy(), words(pool), slots, starts, adapters, plan.weights.numpy(),
        offsets, plan.by_token.numpy(), plan.token_starts.numpy(), pool.shape[1], words(out),
    )  # fmt: skip


def _arrays(rows: RankRows, plan: LoraPlan) -> tuple[Ints, Ints, Ints, Ints]:
    return rows.slots.numpy(), rows.starts.numpy(), plan.adapters.numpy(), plan.offsets.numpy()


@njit(cache=True, nogil=True, error_model="numpy")
def _check(starts: Ints, slots: NDArray[np.int32], pages: int, adapters: Ints, offsets: Ints) -> None:
    """Raise ``ValueError`` unless adapters have rows that are there, and as many as in the plan."""
    for slot in slots.flat:
        if slot < 0 or slot >= pages:
            raise ValueError("slots names pages outside the pool")
    if len(starts) == 0 or starts[0] < 0 or starts[-1] > len(slots):
        raise ValueError("starts must rise from 0 to the number of rank rows")
    for adapter in range(len(starts) - 1):
        if starts[adapter + 1] < starts[adapter]:
            raise ValueError("starts must rise from 0 to the number of rank rows")
    for use in range(len(adapters)):
        adapter = adapters[use]
        if adapter >= len(starts) - 1 or starts[adapter + 1] - starts[adapter] != offsets[use + 1] - offsets[use]:
            raise ValueError("the plan was made for adapters of other ranks")


@njit(cache=True, nogil=True, error_model="numpy")
def _places(pool: Words, slots: Ints, row: int, chunk: int, width: int) -> tuple[Any, Any, Any, Any]:
    """Return where four rank rows have a chunk; ask for that of four rows some way after them, if there are any."""
    for ahead in range(row + AHEAD, min(row + AHEAD + 4, len(slots))):
        prefetch(pool, np.int64(slots[ahead, chunk]) * width, width)
    return (
        np.int64(slots[row, chunk]) * width,
        np.int64(slots[row + 1, chunk]) * width,
        np.int64(slots[row + 2, chunk]) * width,
        np.int64(slots[row + 3, chunk]) * width,
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _shrink(
    work: Work,
    x: Floats,
    pool: Words,
    slots: Ints,
    starts: Ints,
    tokens: Ints,
    adapters: Ints,
    offsets: Ints,
    width: int,
    y: Floats,
) -> None:
    chunks = slots.shape[1]
    item = take(work)
    while item < work[2]:
        for use in range(item * RUN, min((item + 1) * RUN, len(tokens))):
            token, first = tokens[use] * chunks * width, starts[adapters[use]]
            ranks, rank = offsets[use + 1] - offsets[use], 0
            y[offsets[use] : offsets[use + 1]] = np.float32(0)
            while rank < ranks:
                for chunk in range(chunks):
                    at, to = token + chunk * width, offsets[use] + rank
                    if rank + 4 <= ranks:
                        dots_4(x, at, pool, _places(pool, slots, first + rank, chunk, width), width, y, to)
                    else:
                        dots_1(x, at, pool, (np.int64(slots[first + rank, chunk]) * width,), width, y, to)
                rank += 4 if rank + 4 <= ranks else 1
        finish(work)
        item = take(work)


@njit(cache=True, nogil=True, error_model="numpy")
def _expand(
    work: Work,
    y: Floats,
    pool: Words,
    slots: Ints,
    starts: Ints,
    adapters: Ints,
    weights: Floats,
    offsets: Ints,
    by_token: Ints,
    token_starts: Ints,
    width: int,
    out: Words,
) -> None:
    chunks, tokens = slots.shape[1], len(token_starts) - 1
    total = np.empty(chunks * width, np.float32)
    item = take(work)
    while item < work[2]:
        for token in range(item * RUN, min((item + 1) * RUN, tokens)):
            if token_starts[token] == token_starts[token + 1]:
                continue
            start = token * chunks * width
            convert_row(out, start, total, 0, chunks * width)
            for place in range(token_starts[token], token_starts[token + 1]):
                use = by_token[place]
                first = starts[adapters[use]]
                ranks, rank = offsets[use + 1] - offsets[use], 0
                while rank < ranks:
                    four = rank + 4 <= ranks
                    at = offsets[use] + rank
                    weight = weights[use]
                    for chunk in range(chunks):
                        to = chunk * width
                        if four:
                            factors = (weight * y[at], weight * y[at + 1], weight * y[at + 2], weight * y[at + 3])
                            axpys_4(factors, pool, _places(pool, slots, first + rank, chunk, width), width, total, to)
                        else:
                            single = (np.int64(slots[first + rank, chunk]) * width,)
                            axpys_1((weight * y[at],), pool, single, width, total, to)
                    rank += 4 if four else 1
            convert_row(total, 0, out, start, chunks * width)
        finish(work)
        item = take(work)
