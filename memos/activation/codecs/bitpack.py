"""Entropy coder of fixed rate: integers of 1 to 8 bits packed without gaps."""

from __future__ import annotations

import numpy as np

from memos.activation.codecs.base import Array
from memos.activation.codecs.stages import EntropyCoder, Layout


class Bitpack(EntropyCoder):
    """Packs a plane by splitting its bits into fields of 4, 2 and 1, several of which fill a byte (3 bits = 2 + 1)."""

    def encode(self, plane: Array, layout: Layout) -> Array:
        """Return uint8 ``[bytes]``."""
        flat, fields = plane.astype(np.uint8).reshape(-1), []
        for width, shift in _fields(layout.bits):
            part = (flat >> shift) & (2**width - 1)
            part = np.pad(part, (0, -len(part) % (8 // width))).reshape(-1, 8 // width)
            fields.append(np.bitwise_or.reduce(part << np.arange(0, 8, width, dtype=np.uint8), axis=1))
        return np.concatenate(fields).astype(np.uint8)

    def decode(self, coded: Array, layout: Layout) -> Array:
        """Return uint8 ``[rows, columns]``."""
        count = layout.rows * layout.columns
        sizes = [-(-count * width // 8) for width, _ in _fields(layout.bits)]
        if coded.dtype != np.uint8 or coded.shape != (sum(sizes),):
            raise ValueError(f"a packed plane of {sum(sizes)} bytes was expected")
        plane, at = np.zeros(count, np.uint8), 0
        for (width, shift), size in zip(_fields(layout.bits), sizes, strict=True):
            plane |= _unpacked(coded[at : at + size], width)[:count] << np.uint8(shift)
            at += size
        return plane.reshape(layout.rows, layout.columns)


def _fields(bits: int) -> list[tuple[int, int]]:
    """Return (width, shift) of the fields that ``bits`` is made of."""
    return [(width, bits & (width - 1)) for width in (8, 4, 2, 1) if bits & width]


def _unpacked(packed: Array, width: int) -> Array:
    """Return the fields of each byte, the lowest first."""
    fields = np.empty((len(packed), 8 // width), np.uint8)
    for i in range(8 // width):
        fields[:, i] = (packed >> np.uint8(i * width)) & np.uint8(2**width - 1)
    return fields.reshape(-1)
