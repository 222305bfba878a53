"""Where the adapters of a step lie, and which tokens use them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from memos_kernels.lora.plan import LoraPlan, RankRows, plan_lora

#: Ranks that lie together: the rows of A of a module's next four ranks, then its columns of B for the same.
GROUP = 4


def layout_of(ranks: NDArray[np.int32], chunks: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Lay out an adapter of ``ranks`` ``[modules]``: the first four ranks of all modules, then the next four, ...

    Returns ``places`` int32 ``[modules, groups]`` and where each group begins, int64 ``[groups + 1]``: the adapter
    without its last groups is what its first slots hold. ``chunks`` as in :class:`AdapterStep`.
    """
    groups = -(-int(ranks.max(initial=0)) // GROUP)
    rows = np.clip(ranks[:, None] - np.arange(groups) * GROUP, 0, GROUP)
    sizes = (rows * chunks.sum(1, keepdims=True)).T.astype(np.int64)  # [groups, modules]
    ends = np.cumsum(sizes).reshape(sizes.shape)
    return np.ascontiguousarray((ends - sizes).T, np.int32), np.concatenate([[0], ends[:, -1]])


class AdapterStep:
    """The adapters of a step, each in pages of its own, and their uses by the step's packed tokens.

    A pool ``[slots, width]`` is cut into pages of ``page_slots`` slots. Adapter ``a`` is one run of slots through the
    pages that ``pages[a]`` lists. A *module* (a projection in a layer) maps ``chunks[m, 0] * width`` inputs to
    ``chunks[m, 1] * width`` outputs. Four ranks of it at a time, the last group having what is left, stand at
    ``places[a, m, g]`` in the run: rows of A, each of ``chunks[m, 0]`` slots, then columns of B, each of
    ``chunks[m, 1]``. So a step reads every adapter once, in order, and the last groups can be left out.

    Args:
        pages: int32 ``[adapters, blocks]``; entries after an adapter's last page may be anything that is not below 0.
        places: int32 ``[adapters, modules, groups]``.
        ranks: int32 ``[adapters, modules]``; 0 for a module that an adapter leaves alone.
        chunks: int32 ``[modules, 2]``.
        page_slots: slots in a page.
        uses: for each token its adapters with their weights: none for the base model alone, several for an exact sum.

    Raises:
        ValueError: shapes that do not fit, or an adapter that is not there or reaches beyond its pages.
    """

    def __init__(
        self,
        pages: NDArray[np.int32],
        places: NDArray[np.int32],
        ranks: NDArray[np.int32],
        chunks: NDArray[np.int32],
        page_slots: int,
        uses: Sequence[Sequence[tuple[int, float]]],
    ) -> None:
        flat = [use for each in uses for use in each]
        self.pages, self.places, self.ranks, self.chunks = pages, places, ranks, chunks
        self.page_slots = page_slots
        self.starts = np.cumsum([0, *map(len, uses)], dtype=np.int32)
        self.adapters = np.array([adapter for adapter, _ in flat], np.int32)
        self.weights = np.array([weight for _, weight in flat], np.float32)
        #: The number of packed tokens.
        self.tokens = len(uses)
        self._uses = uses
        self._check()
        #: ``chunks`` as numbers.
        self.widths: list[list[int]] = chunks.tolist()
        #: Pages that the pool must have.
        self.pool_pages = int(pages.max(initial=-1)) + 1
        #: Rank rows that the tokens use of each module: what a call costs, times its widths.
        self.work = ranks[self.adapters].sum(0, dtype=np.int64)

    def module(self, index: int) -> tuple[RankRows, RankRows, LoraPlan]:
        """Return a module's rows of A, columns of B and plan, for the kernels that take it apart."""
        starts = np.concatenate([[0], np.cumsum(self.ranks[:, index])]).astype(np.int32)
        sides = [np.concatenate([self.slots(a, index, side) for a in range(len(self.ranks))]) for side in (0, 1)]
        down, up = (RankRows(torch.from_numpy(slots), torch.from_numpy(starts)) for slots in sides)
        return down, up, plan_lora(self._uses, down.starts)

    def slots(self, adapter: int, module: int, side: int) -> NDArray[np.int32]:
        """Return which slots of the pool hold an adapter's rows of A, or columns of B, int32 ``[ranks, chunks]``."""
        rank = np.arange(self.ranks[adapter, module])
        group, inside = rank // GROUP, rank % GROUP
        rows = np.minimum(GROUP, self.ranks[adapter, module] - group * GROUP)
        first = self.places[adapter, module, group] + (rows * self.chunks[module, 0] if side else 0)
        width = int(self.chunks[module, side])
        run = (first + inside * width)[:, None] + np.arange(width)
        page = self.pages[adapter, run // self.page_slots]
        return np.ascontiguousarray(page * self.page_slots + run % self.page_slots, np.int32)

    def _check(self) -> None:
        adapters, modules = self.ranks.shape
        for name, array, shape in (
            ("pages", self.pages, (adapters, self.pages.shape[-1])),
            ("places", self.places, (adapters, modules, self.places.shape[-1])),
            ("ranks", self.ranks, (adapters, modules)),
            ("chunks", self.chunks, (modules, 2)),
        ):
            if array.dtype != np.int32 or array.shape != shape or not array.flags.c_contiguous:
                raise ValueError(f"{name} must be int32 {list(shape)}, not {array.dtype} {list(array.shape)}")
        if self.page_slots < 1 or self.pages.min(initial=0) < 0 or self.chunks.min(initial=1) < 1:
            raise ValueError("pages, their size and the chunks of a module cannot be below 0")
        if len(self.adapters) and not 0 <= self.adapters.min() <= self.adapters.max() < adapters:
            raise ValueError(f"an adapter outside 0 .. {adapters - 1}")
        self._check_places()

    def _check_places(self) -> None:
        groups = -(-self.ranks // GROUP)
        if self.ranks.min(initial=0) < 0 or groups.max(initial=0) > self.places.shape[-1]:
            raise ValueError("an adapter has more groups of ranks than places")
        number = np.arange(self.places.shape[-1])
        rows = np.clip(self.ranks[:, :, None] - number * GROUP, 0, GROUP)
        ends = self.places.astype(np.int64) + rows * self.chunks.sum(1)[None, :, None]
        used = rows > 0
        if (self.places[used] < 0).any() or (ends[used] > self.pages.shape[-1] * self.page_slots).any():
            raise ValueError("an adapter reaches beyond its pages")
