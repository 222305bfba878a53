"""The KV cache of a run of tokens, as every part of the activation tier passes it on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from memos.activation.seen import Seen

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one token's cache looks like in a model: layers, key/value heads, elements per head, dtype by name."""

    layers: int
    heads: int
    head_dim: int
    dtype: str

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of the cache."""
        return DTYPES[self.dtype]

    def elements(self, tokens: int) -> int:
        """Return the number of cached elements, keys and values together."""
        return 2 * self.layers * self.heads * self.head_dim * tokens

    def bytes(self, tokens: int) -> int:
        """Return the uncompressed size in bytes."""
        return self.elements(tokens) * self.torch_dtype.itemsize

    def empty(self, tokens: int, device: str | torch.device = "cpu") -> torch.Tensor:
        """Return an uninitialised buffer ``[layers, 2, heads, tokens, head_dim]``."""
        size = (self.layers, 2, self.heads, tokens, self.head_dim)
        return torch.empty(size, dtype=self.torch_dtype, device=device)


class KVSource(Protocol):
    """An immutable cache that many requests may read at once; a layer is ready when :meth:`layer` returns."""

    @property
    def shape(self) -> KVShape:
        """What one token's cache looks like."""

    @property
    def tokens(self) -> int:
        """The number of cached tokens, at positions ``0 .. tokens - 1``."""

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys (after RoPE) and values of a layer, each ``[heads, tokens, head_dim]``; wait until decoded."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class KVBlock:
    """A whole cache in memory: ``data`` is ``[layers, 2, heads, tokens, head_dim]``, keys (after RoPE) before values.

    Nobody writes into ``data`` once the block is made. ``seen`` is what was asked to be noted of its queries while it
    was computed, for policies that choose tokens by them.
    """

    shape: KVShape
    data: torch.Tensor
    seen: Seen | None = None

    @property
    def tokens(self) -> int:
        """The number of cached tokens."""
        return int(self.data.shape[3])

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of a layer, each ``[heads, tokens, head_dim]``."""
        return self.data[index, 0], self.data[index, 1]

    def first(self, tokens: int) -> KVBlock:
        """Return the cache of the first ``tokens`` tokens."""
        return KVBlock(self.shape, self.data[:, :, :, :tokens].contiguous())


@dataclass(frozen=True, slots=True)
class ParallelKV:
    """A cache in two parts that are attended apart (APE): the ``memory``'s scores are divided by ``temperature``.

    Its log-sum-exp, the weight that it has against all else, is multiplied by ``temperature`` times ``scale``.
    """

    head: KVBlock
    memory: KVBlock
    temperature: float
    scale: float

    @property
    def shape(self) -> KVShape:
        """What one token's cache looks like."""
        return self.head.shape

    @property
    def tokens(self) -> int:
        """The number of cached tokens."""
        return self.head.tokens + self.memory.tokens

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of a layer, each ``[heads, tokens, head_dim]``, of both parts."""
        one, two = self.head.layer(index), self.memory.layer(index)
        return torch.cat([one[0], two[0]], 1), torch.cat([one[1], two[1]], 1)
