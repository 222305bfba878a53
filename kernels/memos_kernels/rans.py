"""Interleaved range asymmetric numeral systems (rANS): an entropy coder whose decoder is a table look-up.

J. Duda, "Asymmetric numeral systems", arXiv:1311.2540; eight interleaved states as in F. Giesen, "Interleaved entropy
coders", arXiv:1402.3392. With ``f`` the frequency of a symbol out of ``M = 4096`` and ``b`` the sum of those before::

    encode  x <- (x // f) * M + x % f + b        after moving 16 bits out while x >= f * 2**20
    decode  x <- f * (x // M) + x % M - b        then moving 16 bits in if x < 2**16

A stream is the eight final states (32 bits each, low half first), then the 16-bit words in the order of decoding. Row
``r`` of ``[rows, columns]`` symbols is coded with the frequencies of class ``classes[r]``; state ``t % 8`` codes column
``t``. A valid stream ends with all states at ``2**16`` and no word left over, which decoding checks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: Bits of a frequency: every class's frequencies add up to ``2 ** BITS``.
BITS = 12
#: Interleaved states.
LANES = 8
_HEADER = 2 * LANES
_TOTAL = 1 << BITS
_LOW = 1 << 16


def decoding_table(frequencies: NDArray[np.integer[Any]]) -> NDArray[np.uint32]:
    """Return ``[classes, 4096]`` entries ``symbol << 24 | frequency << 12 | slot - begin`` of ``[classes, 256]``.

    Raises ``ValueError`` unless every class adds up to 4096 with each frequency below that.
    """
    if frequencies.min() < 0 or frequencies.max() >= _TOTAL or (frequencies.sum(1) != _TOTAL).any():
        raise ValueError("frequencies must lie below 4096 and add up to 4096")
    begins = np.cumsum(frequencies, axis=1) - frequencies
    slots = np.arange(_TOTAL)
    table = np.empty((len(frequencies), _TOTAL), np.uint32)
    for row, frequency, begin in zip(table, frequencies, begins, strict=True):
        symbol = np.repeat(np.arange(256), frequency)
        row[:] = symbol << 24 | frequency[symbol] << 12 | (slots - begin[symbol])
    return table


def rans_encode(
    symbols: NDArray[np.uint8], classes: NDArray[np.uint8], frequencies: NDArray[np.integer[Any]]
) -> NDArray[np.uint16]:
    """Encode ``symbols`` ``[rows, columns]``, each row by the frequencies of its class.

    Raises ``ValueError`` for a symbol whose frequency is zero or a class out of range.
    """
    wide = frequencies.astype(np.uint32)
    begins = (np.cumsum(wide, axis=1) - wide).astype(np.uint32)
    if classes.shape != symbols.shape[:1] or (classes >= len(wide)).any():
        raise ValueError("one known class per row is needed")
    buffer = np.empty(symbols.size + _HEADER, np.uint16)
    first = _encode(np.ascontiguousarray(symbols), classes, wide, begins, buffer)
    if first < 0:
        raise ValueError("a symbol of frequency zero cannot be coded")
    return buffer[first:].copy()


def rans_decode(
    stream: NDArray[np.uint16], classes: NDArray[np.uint8], table: NDArray[np.uint32], symbols: NDArray[np.uint8]
) -> None:
    """Decode into ``symbols`` ``[rows, columns]``. Raises ``ValueError`` when the stream is not one for that shape."""
    if stream.dtype != np.uint16 or stream.ndim != 1 or len(stream) < _HEADER:
        raise ValueError("not a rANS stream")
    if classes.dtype != np.uint8 or classes.shape != symbols.shape[:1] or (classes >= len(table)).any():
        raise ValueError("one known class per row is needed")
    if not _decode(np.ascontiguousarray(stream), classes, table, symbols):
        raise ValueError("the rANS stream is damaged")


@njit(cache=True, nogil=True)
def _encode(
    symbols: NDArray[np.uint8],
    classes: NDArray[np.uint8],
    frequencies: NDArray[np.uint32],
    begins: NDArray[np.uint32],
    buffer: NDArray[np.uint16],
) -> int:
    rows, columns = symbols.shape
    states = np.full(LANES, _LOW, np.uint64)
    at = len(buffer)
    for row in range(rows - 1, -1, -1):
        frequency_of = frequencies[classes[row]]
        begin_of = begins[classes[row]]
        for column in range(columns - 1, -1, -1):
            symbol = symbols[row, column]
            frequency = np.uint64(frequency_of[symbol])
            if frequency == 0:
                return -1
            state = states[column & (LANES - 1)]
            if state >= frequency << np.uint64(20):
                at -= 1
                buffer[at] = np.uint16(state & np.uint64(0xFFFF))
                state >>= np.uint64(16)
            states[column & (LANES - 1)] = (
                ((state // frequency) << np.uint64(BITS)) + state % frequency + np.uint64(begin_of[symbol])
            )
    at -= 2 * LANES
    for lane in range(LANES):
        buffer[at + 2 * lane] = np.uint16(states[lane] & np.uint64(0xFFFF))
        buffer[at + 2 * lane + 1] = np.uint16(states[lane] >> np.uint64(16))
    return at


@njit(inline="always")
def _step(
    words: NDArray[np.uint16],
    at: int,
    states: NDArray[np.uint32],
    lane: int,
    entries: NDArray[np.uint32],
    symbols: NDArray[np.uint8],
    row: int,
    column: int,
) -> int:
    state = states[lane]
    entry = entries[state & np.uint32(4095)]
    symbols[row, column] = np.uint8(entry >> np.uint32(24))
    state = ((entry >> np.uint32(12)) & np.uint32(4095)) * (state >> np.uint32(12)) + (entry & np.uint32(4095))
    word = np.uint32(words[at])
    if state < np.uint32(65536):
        state = (state << np.uint32(16)) | word
        at += 1
    states[lane] = state
    return at


@njit(cache=True, nogil=True)
def _decode(
    stream: NDArray[np.uint16], classes: NDArray[np.uint8], table: NDArray[np.uint32], symbols: NDArray[np.uint8]
) -> bool:
    # A group of columns takes at most one word per lane, so with LANES words of padding one check per group keeps
    # every read inside. An entry has 12 bits of frequency and of offset, so a state never leaves 32 bits.
    rows, columns = symbols.shape
    length = len(stream)
    words = np.zeros(length + LANES, np.uint16)
    words[:length] = stream
    states = np.empty(LANES, np.uint32)
    for lane in range(LANES):
        states[lane] = np.uint32(words[2 * lane]) | (np.uint32(words[2 * lane + 1]) << np.uint32(16))
    at = _HEADER
    whole = columns - columns % LANES
    for row in range(rows):
        entries = table[classes[row]]
        for first in range(0, whole, LANES):
            if at > length:
                return False
            for lane in range(LANES):
                at = _step(words, at, states, lane, entries, symbols, row, first + lane)
        if at > length:
            return False
        for lane in range(columns - whole):
            at = _step(words, at, states, lane, entries, symbols, row, whole + lane)
    return at == length and bool((states == _LOW).all())
