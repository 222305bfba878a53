"""A run of tokens and its KV cache: perhaps a prefix that others share, and pages of the pool."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Many
from typing import NamedTuple

import numpy as np
import torch

from memos.activation.kv import KVShape, KVSource, ParallelKV
from memos.activation.miss import KVMiss
from memos.activation.ragged import RaggedLayer, RaggedSource
from memos.errors import InvalidInput
from memos.runtime.pool import PAGE_TOKENS, Pages
from memos.runtime.retrieval.names import Retrieval
from memos.runtime.watching import Watcher

#: Keys and values ``[heads, tokens, head_dim]``, or what heads of lengths of their own keep.
PrefixLayer = tuple[torch.Tensor, torch.Tensor] | RaggedLayer


class PrefixPart(NamedTuple):
    """A layer of a part of a prefix, what divides its scores and what its weight is scaled by.

    ``source`` is the cache that it is a layer of.
    """

    layer: PrefixLayer
    temperature: float
    scale: float
    source: KVSource


class Sequence:
    """Tokens of one request, prompt first.

    ``prefix`` holds the cache of the first tokens, in memory of its own that nobody writes. The cache of all later ones
    is in pages ``[layers, 2, blocks]`` of the pool, of which the first may be shared with other sequences: a forward
    writes only behind :attr:`cached`. No forward runs tokens before and after ``seam`` together: so a prompt whose
    first ``seam`` tokens may be loaded, or computed, has them computed as they were for the file, rounding included.

    With a ``retrieval``, rows attend what they choose of the prefix, which stays in the memory it is in.
    """

    def __init__(
        self,
        tokens: Many[int],
        shape: KVShape,
        *,
        prefix: KVSource | None = None,
        growth: int = 0,
        seam: int = 0,
        retrieval: Retrieval | None = None,
    ) -> None:
        if prefix is not None:
            _check_prefix(prefix, shape, len(tokens))
        self.tokens = list(tokens)
        self.prefix = prefix
        self.retrieval = retrieval if prefix is not None else None
        #: Tokens whose cache is the prefix.
        self.prefix_tokens = prefix.tokens if prefix is not None else 0
        #: Tokens whose cache was there when the sequence began.
        self.reused = self.prefix_tokens
        #: Tokens whose cache is there.
        self.cached = self.prefix_tokens
        #: The most tokens whose cache the pages have to hold.
        self.room = len(tokens) - self.prefix_tokens + growth
        self.pages: Pages = np.zeros((shape.layers, 2, 0), np.int32)
        #: Why the prefix cannot be read.
        self.miss: KVMiss | None = None
        #: What is told of its rows as they run.
        self.watcher: Watcher | None = None
        self._seam = seam
        self._loaded: dict[int, list[PrefixPart]] = {}

    def begin(self, pages: Pages, shared: int) -> None:
        """Give the sequence its pages, whose first ``shared`` tokens are there already."""
        self.pages = pages
        self.cached = self.reused = self.prefix_tokens + shared

    def step(self, most: int) -> int:
        """Return how many of the next ``most`` tokens one forward may take: it does not cross the seam."""
        count = min(self.waiting, most)
        return min(count, self._seam - self.cached) if self.cached < self._seam else count

    @property
    def waiting(self) -> int:
        """The number of known tokens that have not run through the model."""
        return len(self.tokens) - self.cached

    @property
    def paged(self) -> int:
        """The number of tokens whose cache is in the pages."""
        return self.cached - self.prefix_tokens

    @property
    def blocks(self) -> int:
        """The number of blocks of 16 tokens that the pages have to hold."""
        return -(-self.room // PAGE_TOKENS)

    @property
    def attended(self) -> int:
        """The number of tokens of the prefix that a row attends."""
        if self.retrieval is None or self.prefix is None:
            return self.prefix_tokens
        return sum(_attended(self.retrieval, part) for part in _sources(self.prefix))

    def prefix_parts(self, layer: int, device: torch.device) -> list[PrefixPart]:
        """Return what the prefix is of on a device, once it is there: one part, or those of a :class:`ParallelKV`.

        With a retrieval, what it chooses from is wherever it was. Raises :class:`KVMiss`.
        """
        if self.prefix is None:
            raise LookupError("the sequence has no prefix")
        if layer not in self._loaded:
            try:
                self._loaded[layer] = list(_parts(self.prefix, layer, None if self.retrieval else device))
            except KVMiss as miss:
                self.miss = miss
                raise
        return self._loaded[layer]

    def advance(self, count: int) -> None:
        """Count ``count`` more tokens as cached in all layers."""
        self.cached += count


def _parts(prefix: KVSource, layer: int, device: torch.device | None) -> Iterator[PrefixPart]:
    if isinstance(prefix, ParallelKV):
        yield PrefixPart(_layer_of(prefix.head, layer, device), 1.0, 1.0, prefix.head)
        yield PrefixPart(_layer_of(prefix.memory, layer, device), prefix.temperature, prefix.scale, prefix.memory)
    else:
        yield PrefixPart(_layer_of(prefix, layer, device), 1.0, 1.0, prefix)


def _layer_of(prefix: KVSource, layer: int, device: torch.device | None) -> PrefixLayer:
    """Return a layer, moved to a device if one is named: in place on its own."""
    if isinstance(prefix, RaggedSource):
        kept = prefix.ragged_layer(layer)
        return kept if device is None else kept.to(device)
    keys, values = prefix.layer(layer)
    return (keys, values) if device is None else (keys.to(device), values.to(device))


def _sources(prefix: KVSource) -> tuple[KVSource, ...]:
    return (prefix.head, prefix.memory) if isinstance(prefix, ParallelKV) else (prefix,)


def _attended(retrieval: Retrieval, source: KVSource) -> int:
    """Return how many tokens of a cache are attended: of one whose heads keep tokens of their own, all."""
    return source.tokens if isinstance(source, RaggedSource) else retrieval.attended(source.tokens)


def _check_prefix(prefix: KVSource, shape: KVShape, tokens: int) -> None:
    if prefix.shape != shape:
        raise InvalidInput(f"the prefix is a cache of another model: {prefix.shape}, not {shape}")
    if not 0 < prefix.tokens < tokens:
        raise InvalidInput(f"the prefix holds {prefix.tokens} tokens; a prompt of {tokens} must go on after it")
