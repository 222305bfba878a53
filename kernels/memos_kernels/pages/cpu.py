"""Gather and scatter in numba: runs of bytes between addresses, whatever they are."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from memos_kernels.simd import copy
from memos_kernels.threads import Work, finish, launch, take

#: Bytes above which a result is written past the caches.
LARGE = 4 << 20


def gather_pages(pools: list[torch.Tensor], table: torch.Tensor, out: torch.Tensor) -> None:
    """See :func:`memos_kernels.pages.gather_pages`."""
    _move(out, pools, table, gather=True)


def scatter_pages(source: torch.Tensor, pools: list[torch.Tensor], table: torch.Tensor) -> None:
    """See :func:`memos_kernels.pages.scatter_pages`."""
    _move(source, pools, table, gather=False)


def _move(contiguous: torch.Tensor, pools: list[torch.Tensor], table: torch.Tensor, *, gather: bool) -> None:
    matrices, heads, tokens, head_dim = contiguous.shape
    if not contiguous.numel():
        return
    size = pools[0].shape[2]
    addresses = np.array([pool.data_ptr() for pool in pools], np.int64)
    shape = (heads, tokens, size, head_dim * contiguous.element_size())
    items = matrices * -(-tokens // size)
    launch(
        _copy_pages, items, 2 * contiguous.nbytes, addresses, table.numpy(), contiguous.data_ptr(), shape, gather,
        contiguous.nbytes >= LARGE,
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _copy_pages(
    work: Work,
    pools: NDArray[np.int64],
    table: NDArray[np.int32],
    contiguous: int,
    shape: tuple[int, int, int, int],
    gather: bool,
    past: bool,
) -> None:
    heads, tokens, size, row = shape
    blocks = -(-tokens // size)
    item = take(work)
    while item < work[2]:
        matrix, block = item // blocks, item % blocks
        run = min(size, tokens - block * size) * row
        page = pools[matrix] + np.int64(table[matrix, block]) * heads * size * row
        for head in range(heads):
            paged = page + head * size * row
            flat = contiguous + ((matrix * heads + head) * tokens + block * size) * row
            if gather:
                copy(flat, paged, run, past)
            else:
                copy(paged, flat, run, past)
        finish(work)
        item = take(work)
