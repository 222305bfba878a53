"""Entropy coder of rows of small signed integers with shared, static distributions: one byte of table per row."""

from __future__ import annotations

import numpy as np

from memos.activation.codecs.base import Array
from memos.activation.codecs.scales import ESCAPE, ZERO, costs, decoding, frequencies
from memos.activation.codecs.stages import EntropyCoder, Layout
from memos_kernels.rans import rans_decode, rans_encode


class RowRans(EntropyCoder):
    """Codes each row by the scale class (:mod:`memos.activation.codecs.scales`) that makes it shortest.

    A coded plane is uint16: the number of escapes (two words), the escaped levels (two words each), the classes (two
    rows a word), the rANS stream. Words of a pair come low half first.
    """

    def encode(self, plane: Array, layout: Layout) -> Array:
        """Encode int32 levels ``[rows, columns]``."""
        symbols = _symbols(plane)
        classes = _costs(symbols).argmin(1).astype(np.uint8)
        table = frequencies()
        symbols[table[classes[:, None], symbols] == 0] = ESCAPE
        escapes = plane[symbols == ESCAPE].astype("<i4").view("<u2")
        count = np.array([len(escapes) // 2], "<u4").view("<u2")
        padded = np.pad(classes, (0, len(classes) % 2)).view("<u2")
        return np.concatenate([count, escapes, padded, rans_encode(symbols, classes, table)])

    def decode(self, coded: Array, layout: Layout) -> Array:
        """Return float32 levels ``[rows, columns]``, ready to be scaled."""
        if coded.dtype != np.uint16 or coded.ndim != 1 or len(coded) < 2:
            raise ValueError("not a coded plane")
        escapes = int(coded[0]) | int(coded[1]) << 16
        first, words = 2 + 2 * escapes, -(-layout.rows // 2)
        if first + words > len(coded):
            raise ValueError("a coded plane is too short")
        classes = coded[first : first + words].view(np.uint8)[: layout.rows]
        symbols = np.empty((layout.rows, layout.columns), np.uint8)
        rans_decode(coded[first + words :], classes, decoding(), symbols)
        levels = _LEVELS[symbols]
        if escapes != (places := symbols == ESCAPE).sum():
            raise ValueError("a coded plane has another number of escapes than it says")
        if escapes:
            levels[places] = coded[2:first].copy().view(np.int32)
        return levels


#: Symbol to level.
_LEVELS = np.arange(256, dtype=np.float32) - ZERO


def bits_of(levels: Array) -> Array:
    """Return the bits each row of int32 levels takes in its best class, without the byte for the class."""
    best: Array = _costs(_symbols(levels)).min(1)
    return best


def _symbols(levels: Array) -> Array:
    symbols: Array = np.where(np.abs(levels) <= ZERO, levels + ZERO, ESCAPE).astype(np.uint8)
    return symbols


def _costs(symbols: Array) -> Array:
    """Return bits per row and class, float32 ``[rows, CLASSES]``."""
    rows = np.arange(len(symbols))[:, None] * 256
    counts = np.bincount((rows + symbols).reshape(-1), minlength=256 * len(symbols)).reshape(-1, 256)
    return counts.astype(np.float32) @ costs().T
