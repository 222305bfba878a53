"""Caches of which every head keeps tokens of its own choice: fewer entries, in fact and not by a mask.

The tokens of such a cache are those of the prompt, and what follows keeps its positions. Attention needs no more than
the entries that are left: all of them are visible to whatever comes behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from memos.activation.kv import KVShape, KVSource
from memos.activation.miss import KVMiss

#: The most tokens that one entry may stand for.
MOST_MERGED = 65_535


@dataclass(frozen=True, slots=True)
class RaggedLayer:
    """The entries of a layer: keys (after RoPE, at the tokens' own positions) and values ``[entries, head_dim]``.

    Head after head, the first ``lengths[0]`` are those of head 0. ``log_counts``, float32 ``[entries]``, is ``log n``
    for an entry that ``n`` tokens were merged into, which attention adds to its score.
    """

    keys: torch.Tensor
    values: torch.Tensor
    lengths: tuple[int, ...]
    log_counts: torch.Tensor | None = None

    def to(self, device: torch.device) -> RaggedLayer:
        """Return it on a device, in place on its own."""
        counts = self.log_counts
        moved = self.keys.to(device), self.values.to(device), None if counts is None else counts.to(device)
        return RaggedLayer(moved[0], moved[1], self.lengths, moved[2])


@runtime_checkable
class RaggedSource(KVSource, Protocol):
    """A cache without a dense form: its ``layer`` raises :class:`~memos.activation.miss.KVMiss`."""

    def ragged_layer(self, index: int) -> RaggedLayer:
        """Return a layer, once it is there."""


@dataclass(frozen=True, slots=True)
class RaggedLayout:
    """Which entries there are: ``kept``, bool ``[layers, heads, tokens]``, and what each of them stands for.

    ``counts``, uint16 ``[entries]`` over layers, heads and tokens in that order, is None where all are 1.
    """

    kept: NDArray[np.bool_]
    counts: NDArray[np.uint16] | None = None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Entries by layer and head, ``[layers, heads]``."""
        counted: NDArray[np.int64] = self.kept.sum(-1, dtype=np.int64)
        return counted

    @property
    def entries(self) -> int:
        """All entries."""
        return int(self.kept.sum())

    @property
    def bytes(self) -> int:
        """What it takes in memory, the logarithms of counts with it."""
        return self.kept.nbytes + (0 if self.counts is None else 4 * self.entries)

    def positions(self, layer: int) -> NDArray[np.int64]:
        """Return the positions of a layer's entries, int64 ``[entries]``."""
        return np.nonzero(self.kept[layer])[1]

    def layer_of(self, index: int, data: torch.Tensor) -> RaggedLayer:
        """Return a layer whose entries are ``data`` ``[2, entries, head_dim]``."""
        lengths = tuple(int(length) for length in self.kept[index].sum(-1))
        if self.counts is None:
            return RaggedLayer(data[0], data[1], lengths)
        start = int(self.kept[:index].sum())
        logs = np.log(self.counts[start : start + sum(lengths)].astype(np.float32))
        return RaggedLayer(data[0], data[1], lengths, torch.from_numpy(logs).to(data.device))

    def split(self, data: torch.Tensor, head_dim: int) -> tuple[torch.Tensor, ...]:
        """Return views of a buffer of all elements, ``[2, entries, head_dim]`` for each layer."""
        sizes = [2 * head_dim * int(count) for count in self.kept.sum((1, 2))]
        return tuple(part.view(2, -1, head_dim) for part in data.split(sizes))

    def cut(self, tokens: int) -> NDArray[np.bool_]:
        """Return which entries are among the first ``tokens`` tokens, bool ``[entries]``."""
        return np.nonzero(self.kept)[2] < tokens


@dataclass(frozen=True, slots=True)
class RaggedBlock:
    """A whole ragged cache in memory, a :class:`RaggedSource`: ``data[l]`` is ``[2, entries, head_dim]``."""

    shape: KVShape
    layout: RaggedLayout
    data: tuple[torch.Tensor, ...]

    @property
    def tokens(self) -> int:
        """The number of tokens it is the cache of, at positions ``0 .. tokens - 1``."""
        return int(self.layout.kept.shape[2])

    @property
    def bytes(self) -> int:
        """The size of the cache in memory."""
        return self.layout.bytes + sum(part.nbytes for part in self.data)

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Raise :class:`KVMiss`: there is no dense form."""
        raise no_dense_form()

    def ragged_layer(self, index: int) -> RaggedLayer:
        """Return a layer."""
        return self.layout.layer_of(index, self.data[index])

    def first(self, tokens: int) -> RaggedBlock:
        """Return the part that belongs to the first ``tokens`` tokens."""
        sizes = [part.shape[1] for part in self.data]
        inside = torch.from_numpy(self.layout.cut(tokens))
        counts = None if self.layout.counts is None else self.layout.counts[inside.numpy()]
        parts = (part[:, mine] for part, mine in zip(self.data, inside.split(sizes), strict=True))
        layout = RaggedLayout(np.ascontiguousarray(self.layout.kept[:, :, :tokens]), counts)
        return RaggedBlock(self.shape, layout, tuple(parts))


def no_dense_form() -> KVMiss:
    """Return what whoever needs a row for every token of a ragged cache is told: compute it."""
    return KVMiss("codec", "tokens were dropped from it, so it cannot stand for the whole cache")
