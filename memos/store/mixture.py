"""The vector that recall compares: of a text alone, mixed with that of the text and its note.

A-MEM compares the latter only (equation 3).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memos.cube import Descriptor

#: Share of the vector of text and note; flat from .5 to 1.
NOTE = 0.75
FLOAT32 = np.dtype("<f4")


def note_text(text: str, note: Descriptor) -> str:
    """Return what the vector of a note is made of: content, keywords, tags, context."""
    parts = [text, ", ".join(note.keywords), ", ".join(note.tags), note.context or ""]
    return "\n".join(part for part in parts if part)


def has_note(note: Descriptor) -> bool:
    """Whether there is more to embed than the text."""
    return bool(note.keywords or note.tags or note.context)


def packed(vector: NDArray[np.float32] | None) -> bytes | None:
    """Return a vector as the tables hold it."""
    return None if vector is None else vector.astype(FLOAT32, copy=False).tobytes()


def mixture(raw: Sequence[bytes | None], enriched: Sequence[bytes | None], dimension: int) -> NDArray[np.float32]:
    """Return unit vectors float32 ``[n, dimension]``: of the text where there is no note, zero without either."""
    texts = _rows(raw, dimension)
    with_note = np.array([one is not None for one in enriched], np.bool_)
    if with_note.any():
        notes = _rows([one for one in enriched if one is not None], dimension)
        both = (1 - NOTE) * texts[with_note] + NOTE * notes
        texts[with_note] = both / np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-9)
    return texts


def _rows(packed: Sequence[bytes | None], dimension: int) -> NDArray[np.float32]:
    blank = bytes(dimension * FLOAT32.itemsize)
    joined = b"".join(blank if one is None else one for one in packed)
    return np.frombuffer(joined, FLOAT32).reshape(len(packed), dimension).copy()
