"""The page pool: one piece of memory for KV caches, adapters and cartridges (S-LoRA's unified paging, arXiv:2309.06180
for the KV part, arXiv:2311.03285 section 5).

A *slot* has the width that divides every row of the model, so a rank row is a few slots, and so is the key of a token
in a layer. A *page* is the slots of 16 tokens' keys, or values, in one layer; an adapter fills pages with its rank
rows. What is allocated is counted in pages, whatever it is for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from memos.activation.kv import KVShape
from memos_kernels.memory import huge_tensor

#: Tokens whose keys, or values, in one layer fill a page.
PAGE_TOKENS = 16

Pages = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class PageShape:
    """How a model's memory is cut: ``width`` elements in a slot, ``slots`` in a page."""

    kv: KVShape
    width: int
    slots: int

    @classmethod
    def of(cls, kv: KVShape, widths: Iterable[int]) -> PageShape:
        """Return the shape for a model whose rows, besides those of its cache, have these widths."""
        row = kv.heads * kv.head_dim
        width = math.gcd(row, *widths)
        return cls(kv, width, PAGE_TOKENS * row // width)

    @property
    def bytes(self) -> int:
        """The size of a page."""
        return self.slots * self.width * self.kv.torch_dtype.itemsize

    @property
    def block_pages(self) -> int:
        """Pages that 16 tokens fill: keys and values of all layers."""
        return 2 * self.kv.layers

    def kv_pages(self, tokens: int) -> int:
        """Return how many pages the cache of some tokens fills."""
        return -(-tokens // PAGE_TOKENS) * self.block_pages


class PagePool:
    """Pages of one size, taken and given back in O(their number), with a count of users each.

    Not safe for several threads; the loop that owns it has a lock.
    """

    def __init__(self, shape: PageShape, pages: int, device: torch.device) -> None:
        self.shape = shape
        self.pages = pages
        size, dtype = (pages * shape.slots, shape.width), shape.kv.torch_dtype
        #: ``[pages * slots, width]``: as adapters see it.
        self.slots = huge_tensor(size, dtype) if device.type == "cpu" else torch.zeros(size, dtype=dtype, device=device)
        #: ``[pages, heads, 16, head_dim]``: as attention sees it.
        self.kv = self.slots.view(pages, shape.kv.heads, PAGE_TOKENS, shape.kv.head_dim)
        self._users = np.zeros(pages, np.int32)
        self._free = np.arange(pages - 1, -1, -1, dtype=np.int32)
        self._top = pages

    @property
    def free(self) -> int:
        """The number of pages that nobody uses."""
        return self._top

    @property
    def tokens(self) -> int:
        """The number of tokens whose cache fits an empty pool."""
        return self.pages // self.shape.block_pages * PAGE_TOKENS

    def take(self, count: int) -> Pages:
        """Return ``count`` pages with one user each. Raises ``MemoryError``: who asks makes room first."""
        if count > self._top:
            raise MemoryError(f"{count} pages are needed and {self._top} are free")
        self._top -= count
        taken = self._free[self._top : self._top + count].copy()
        self._users[taken] = 1
        return taken

    def share(self, pages: Pages) -> None:
        """Count one more user of some pages."""
        self._users[pages.ravel()] += 1

    def give_back(self, pages: Pages) -> None:
        """Count one user less of some pages, which are all different; those that nobody uses are free."""
        flat = pages.ravel()
        if (self._users[flat] < 1).any():
            raise ValueError("pages were given back that nobody had taken")
        self._users[flat] -= 1
        freed = flat[self._users[flat] == 0]
        self._free[self._top : self._top + len(freed)] = freed
        self._top += len(freed)
