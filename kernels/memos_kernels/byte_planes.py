"""Splitting floating-point words into an exponent plane and the rest, and joining them again, one pass each.

With ``r = rotate_left(word, 1)`` the sign leaves the top, so that for bfloat16 and float32 the highest byte of ``r`` is
exactly the exponent (for float16: the exponent and three bits of the mantissa)::

    exponent[m, d, t] = r[m, t, d] >> (bits - 8)
    rest[m, t, d]     = r[m, t, d] & (2 ** (bits - 8) - 1)

The exponent plane is channel-major: neighbours along tokens have similar exponents. All arrays are C-contiguous.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: Tokens transposed together: with 64 channels, a block of the exponent plane stays in the first-level cache.
_BLOCK = 64


@njit(cache=True, nogil=True)
def split16(words: NDArray[np.uint16], exponent: NDArray[np.uint8], rest: NDArray[np.uint8]) -> None:
    """Split 16-bit ``words`` ``[m, tokens, channels]``: exponents ``[m, channels, tokens]``, rest like the words."""
    matrices, tokens, channels = words.shape
    for m in range(matrices):
        for first in range(0, tokens, _BLOCK):
            last = min(first + _BLOCK, tokens)
            for t in range(first, last):
                for d in range(channels):
                    word = np.uint32(words[m, t, d])
                    exponent[m, d, t] = np.uint8((word >> 7) & 0xFF)
                    rest[m, t, d] = np.uint8(((word << 1) & 0xFE) | (word >> 15))


@njit(cache=True, nogil=True)
def _turn(plane: NDArray[np.uint8], first: int, count: int, block: NDArray[np.uint8]) -> None:
    """Transpose some tokens of a plane into ``block``, so that joining them runs along memory and vectorises."""
    for d in range(plane.shape[0]):
        for t in range(count):
            block[t, d] = plane[d, first + t]


@njit(cache=True, nogil=True)
def join16(exponent: NDArray[np.uint8], rest: NDArray[np.uint8], words: NDArray[np.uint16]) -> None:
    """Undo :func:`split16` into ``words``."""
    matrices, tokens, channels = words.shape
    block = np.empty((_BLOCK, channels), np.uint8)
    for m in range(matrices):
        for first in range(0, tokens, _BLOCK):
            count = min(_BLOCK, tokens - first)
            _turn(exponent[m], first, count, block)
            for t in range(count):
                for d in range(channels):
                    low = np.uint16(rest[m, first + t, d])
                    high = np.uint16(np.uint16(block[t, d]) << np.uint16(7))
                    sign = np.uint16(low << np.uint16(15))
                    words[m, first + t, d] = high | sign | np.uint16(low >> np.uint16(1))


@njit(cache=True, nogil=True)
def split32(
    words: NDArray[np.uint32], exponent: NDArray[np.uint8], middle: NDArray[np.uint8], low: NDArray[np.uint16]
) -> None:
    """Split 32-bit ``words`` as :func:`split16` does; the rest is its highest byte and its lower 16 bits."""
    matrices, tokens, channels = words.shape
    for m in range(matrices):
        for first in range(0, tokens, _BLOCK):
            last = min(first + _BLOCK, tokens)
            for t in range(first, last):
                for d in range(channels):
                    word = words[m, t, d]
                    turned = (word << np.uint32(1)) | (word >> np.uint32(31))
                    exponent[m, d, t] = np.uint8(turned >> np.uint32(24))
                    middle[m, t, d] = np.uint8((turned >> np.uint32(16)) & np.uint32(0xFF))
                    low[m, t, d] = np.uint16(turned & np.uint32(0xFFFF))


@njit(cache=True, nogil=True)
def join32(
    exponent: NDArray[np.uint8], middle: NDArray[np.uint8], low: NDArray[np.uint16], words: NDArray[np.uint32]
) -> None:
    """Undo :func:`split32` into ``words``."""
    matrices, tokens, channels = words.shape
    block = np.empty((_BLOCK, channels), np.uint8)
    for m in range(matrices):
        for first in range(0, tokens, _BLOCK):
            count = min(_BLOCK, tokens - first)
            _turn(exponent[m], first, count, block)
            for t in range(count):
                for d in range(channels):
                    high = np.uint32(block[t, d]) << np.uint32(24)
                    turned = (
                        high | (np.uint32(middle[m, first + t, d]) << np.uint32(16)) | np.uint32(low[m, first + t, d])
                    )
                    words[m, first + t, d] = (turned >> np.uint32(1)) | (turned << np.uint32(31))
