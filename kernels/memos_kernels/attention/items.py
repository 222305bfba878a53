"""How attention on the CPU is cut into pieces of work.

A piece is a span of keys of one key/value head for up to ``COLUMNS`` query rows × heads. Spans are of fixed length and
joined in order, so that no result depends on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: Query rows × heads of a group that are worked on together.
COLUMNS = 48
#: Keys between two updates of the running maximum.
BLOCK = 64
#: Keys in a piece of work.
SPAN = 512
#: The running maximum of a row that has seen no key.
NOTHING = np.float32(-1e30)


@njit(cache=True, nogil=True, error_model="numpy")
def plan(
    starts: NDArray[np.int32],
    lengths: NDArray[np.int32],
    table: NDArray[np.int32],
    shape: tuple[int, int, int, int, int],
    spans: int,
    causal: bool,
) -> NDArray[np.int32]:
    """Return the pieces of work: sequence, key/value head, first row (of all), rows, span.

    Raises ``ValueError`` where starts, lengths and pages contradict each other.
    """
    all_rows, pages, kv_heads, size, each = shape
    if starts[0] != 0 or starts[-1] != all_rows:
        raise ValueError("starts must rise from 0 to the number of rows")
    most = 0
    for b in range(len(lengths)):
        rows = starts[b + 1] - starts[b]
        if rows < 0:
            raise ValueError("starts must rise from 0 to the number of rows")
        if lengths[b] < 0 or (causal and rows > lengths[b]):
            raise ValueError("a sequence has fewer keys than rows")
        blocks = -(-lengths[b] // size)
        if blocks > table.shape[2]:
            raise ValueError("the table has too few blocks for the keys of a sequence")
        for side in range(2):
            for block in range(blocks):
                if table[b, side, block] < 0 or table[b, side, block] >= pages:
                    raise ValueError("the table names pages outside the pool")
        most += -(-rows // each) * kv_heads * spans
    items = np.empty((most, 5), np.int32)
    count = 0
    for b in range(len(lengths)):
        for span in range(spans):
            for head in range(kv_heads):
                for first in range(starts[b], starts[b + 1], each):
                    rows = min(each, starts[b + 1] - first)
                    seen = lengths[b] - (starts[b + 1] - first - rows) if causal else lengths[b]
                    if span * SPAN < seen:
                        items[count] = (b, head, first, rows, span)
                        count += 1
    return items[:count]


@njit(cache=True, nogil=True, error_model="numpy")
def segment(pages: NDArray[np.int32], token: int, head: int, kv_heads: int, size: int) -> Any:
    """Return the place of a token of one head, in tokens from the beginning of the pool."""
    return (np.int64(pages[token // size]) * kv_heads + head) * size + token % size


@njit(cache=True, nogil=True, error_model="numpy")
def run_from(pages: NDArray[np.int32], token: int, most: int, kv_heads: int, size: int) -> int:
    """Return how many of ``most`` tokens lie one behind the other: of a page, and of pages of one head that do so."""
    run = min(most, size - token % size)
    if kv_heads == 1:
        while run < most and pages[(token + run) // size] == pages[(token + run - 1) // size] + 1:
            run = min(run + size, most)
    return run
