"""Adapters in numba. Each is read once from memory: for its rank rows, in whatever pages, are all the cost there is."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from memos_kernels.lora.plan import LoraPlan, RankRows
from memos_kernels.simd import narrow, prefetch, widen, words
from memos_kernels.threads import Work, finish, launch, take

#: Sums may be reordered into vector lanes, but what is not a number must stay so.
FAST = {"reassoc", "contract", "nsz"}
#: Uses, and tokens, in a piece of work.
RUN = 8

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Words = NDArray[Any]


def lora_shrink(x: torch.Tensor, pool: torch.Tensor, down: RankRows, plan: LoraPlan) -> torch.Tensor:
    """See :func:`memos_kernels.lora.lora_shrink`."""
    y = torch.empty(plan.ranks)
    width = pool.shape[1]
    launch(
        _shrink, -(-len(plan.tokens) // RUN), plan.ranks * x.shape[1] * pool.element_size(), words(x.float()),
        words(pool), down.slots.numpy(), down.starts.numpy(), plan.tokens.numpy(), plan.adapters.numpy(),
        plan.offsets.numpy(), width, y.numpy(),
    )  # fmt: skip
    return y


def lora_expand(y: torch.Tensor, pool: torch.Tensor, up: RankRows, plan: LoraPlan, out: torch.Tensor) -> None:
    """See :func:`memos_kernels.lora.lora_expand`."""
    launch(
        _expand, -(-len(out) // RUN), plan.ranks * out.shape[1] * pool.element_size(), y.numpy(), words(pool),
        up.slots.numpy(), up.starts.numpy(), plan.adapters.numpy(), plan.weights.numpy(), plan.offsets.numpy(),
        plan.by_token.numpy(), plan.token_starts.numpy(), pool.shape[1], words(out),
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)  # type: ignore[untyped-decorator]
def _dot(x: Floats, x_at: int, pool: Words, at: int, count: int) -> np.float32:
    total = np.float32(0)
    for i in range(count):
        total += x[x_at + i] * widen(pool[at + i])
    return total


@njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
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
            for rank in range(offsets[use + 1] - offsets[use]):
                total = np.float32(0)
                coming = min(first + rank + 1, len(slots) - 1)
                for chunk in range(chunks):
                    prefetch(pool, np.int64(slots[coming, chunk]) * width, width)
                    at = np.int64(slots[first + rank, chunk]) * width
                    total += _dot(x, token + chunk * width, pool, at, width)
                y[offsets[use] + rank] = total
        finish(work)
        item = take(work)


@njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
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
            total[:] = np.float32(0)
            for place in range(token_starts[token], token_starts[token + 1]):
                use = by_token[place]
                first = starts[adapters[use]]
                for rank in range(offsets[use + 1] - offsets[use]):
                    factor = weights[use] * y[offsets[use] + rank]
                    coming = min(first + rank + 1, len(slots) - 1)
                    for chunk in range(chunks):
                        prefetch(pool, np.int64(slots[coming, chunk]) * width, width)
                        at, to = np.int64(slots[first + rank, chunk]) * width, chunk * width
                        for i in range(width):
                            total[to + i] += factor * widen(pool[at + i])
            start = token * chunks * width
            for i in range(chunks * width):
                out[start + i] = narrow(widen(out[start + i]) + total[i], out)
        finish(work)
        item = take(work)
