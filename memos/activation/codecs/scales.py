"""Static tables of the entropy coder: integers drawn from a logistic distribution, by scale class.

Instead of storing a distribution per channel (2.06 bits per element in the released CacheGen), a channel stores one
byte: the class of its scale. Class ``c`` has standard deviation ``2 ** (c / 4 - 4)``; with
``s = sigma * sqrt(3) / pi``::

    P(q) = 1 / (1 + exp(-(q + 1/2) / s)) - 1 / (1 + exp(-(q - 1/2) / s))

Encoder and decoder must agree on every frequency, on any machine, so they are computed in decimal arithmetic.
"""

from __future__ import annotations

from decimal import Context, Decimal, localcontext
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memos_kernels.rans import BITS, decoding_table

#: Scale classes: standard deviations from 1/16 to 2 ** 5.
CLASSES = 37
#: The symbol of level zero; symbols 0 to 254 are levels -127 to 127.
ZERO = 127
#: The symbol of a level that its class cannot code.
ESCAPE = 255
_TOTAL = 1 << BITS
_CONTEXT = Context(prec=24)
_PI = Decimal("3.14159265358979323846264")


@lru_cache(maxsize=1)
def frequencies() -> NDArray[np.int64]:
    """Return the frequencies ``[CLASSES, 256]``; zero for a level so rare in its class that it is escaped."""
    table = np.zeros((CLASSES, 256), np.int64)
    for row, index in zip(table, range(CLASSES), strict=True):
        sides = _tail(index)
        row[ZERO + 1 : ZERO + 1 + len(sides)] = sides
        row[ZERO - len(sides) : ZERO] = sides[::-1]
        row[ESCAPE] = 1
        row[ZERO] = _TOTAL - row.sum()
    return table


@lru_cache(maxsize=1)
def decoding() -> NDArray[np.uint32]:
    """Return the decoder's table of :func:`frequencies`."""
    return decoding_table(frequencies())


@lru_cache(maxsize=1)
def costs() -> NDArray[np.float32]:
    """Return bits per symbol ``[CLASSES, 256]``; an escaped level costs its symbol and 32 bits."""
    table = frequencies()
    escaped: float = BITS + 32
    bits: NDArray[Any] = np.where(table > 0, BITS - np.log2(np.maximum(table, 1)), escaped)
    bits[:, ESCAPE] = escaped
    return bits.astype(np.float32)


def _tail(index: int) -> list[int]:
    """Return the frequencies of levels 1, 2, … as long as they are above 1/8 of one part in 4096."""
    found: list[int] = []
    with localcontext(_CONTEXT):
        scale = Decimal(2) ** (Decimal(index) / 4 - 4) * Decimal(3).sqrt() / _PI
        below = _cumulative(Decimal("0.5"), scale)
        for level in range(1, ZERO + 1):
            above = _cumulative(level + Decimal("0.5"), scale)
            share = (above - below) * _TOTAL
            if share < Decimal("0.125"):
                break
            found.append(max(1, int(share)))
            below = above
    return found


def _cumulative(at: Decimal, scale: Decimal) -> Decimal:
    return 1 / (1 + (-at / scale).exp())
