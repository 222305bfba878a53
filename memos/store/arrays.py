"""Arrays that grow at the end in amortised constant time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class GrowingArray:
    """A NumPy array ``[n, *row_shape]`` with room to append; capacity doubles when it is used up."""

    def __init__(self, dtype: DTypeLike, row_shape: tuple[int, ...] = (), capacity: int = 0) -> None:
        self._data = np.empty((capacity, *row_shape), dtype)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def values(self) -> NDArray[Any]:
        """The present elements, as a view that later appends may leave behind."""
        return self._data[: self._length]

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return int(self._data.nbytes)

    def extend(self, items: Any) -> None:
        """Append all ``items`` (anything NumPy can assign)."""
        count = len(items)
        needed = self._length + count
        if needed > len(self._data):
            grown = np.empty((max(needed, 2 * len(self._data)), *self._data.shape[1:]), self._data.dtype)
            grown[: self._length] = self.values
            self._data = grown
        self._data[self._length : needed] = items
        self._length = needed
