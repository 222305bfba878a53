"""Small unsigned numbers packed into bytes, the first in the lowest bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Numbers packed together, and the bytes they take, by bits per number.
_GROUP = {1: (8, 1), 2: (4, 1), 3: (8, 3), 4: (2, 1), 8: (1, 1)}
WIDTHS = tuple(_GROUP)


def packed_size(count: int, bits: int) -> int:
    """Return the bytes that ``count`` numbers take."""
    numbers, size = _GROUP[bits]
    return -(-count // numbers) * size


def pack(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack numbers below ``2 ** bits``, read in C order, into a line of bytes."""
    if bits == 8:
        return values.reshape(-1)
    numbers, size = _GROUP[bits]
    padded = np.zeros(packed_size(values.size, bits) // size * numbers, np.uint32)
    padded[: values.size] = values.reshape(-1)
    rows = padded.reshape(-1, numbers)
    words = np.zeros(len(rows), np.uint32)
    for place in range(numbers):
        words |= rows[:, place] << np.uint32(place * bits)
    return np.ascontiguousarray(words.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :size]).reshape(-1)


def unpack(data: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """Return the ``count`` numbers of a line of bytes. Raises ``ValueError`` for one of another length."""
    if data.dtype != np.uint8 or data.ndim != 1 or data.size != packed_size(count, bits):
        raise ValueError(f"{data.size} bytes where {count} numbers of {bits} bits belong")
    if bits == 8:
        return data
    numbers, size = _GROUP[bits]
    if size == 1:
        words = data
    else:
        words = np.zeros(data.size // size, np.uint32)
        for place in range(size):
            words |= data[place::size].astype(np.uint32) << np.uint32(8 * place)
    rows = np.empty((words.size, numbers), np.uint8)
    for place in range(numbers):
        rows[:, place] = (words >> (place * bits)) & ((1 << bits) - 1)
    return rows.reshape(-1)[:count]
