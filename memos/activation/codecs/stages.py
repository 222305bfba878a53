"""The four stages of a codec chain, and the chain itself.

    select       which tokens are kept            (here: all; policies that drop tokens come with composition)
    merge        tokens folded into others        (here: none)
    quantise     numbers to fewer bits, per layer
    entropy-code bits to fewer bits, per array
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

from memos.activation.codecs.base import Array, Codec, Encoded, LayerDecoder
from memos.activation.kv import KVBlock, KVShape


class Select(ABC):
    """Chooses tokens."""

    @abstractmethod
    def select(self, kv: KVBlock) -> KVBlock:
        """Return the cache of the tokens that stay."""


class KeepAll(Select):
    """Every token stays."""

    def select(self, kv: KVBlock) -> KVBlock:
        """Return the cache as it is."""
        return kv


class Merge(ABC):
    """Folds tokens into others."""

    @abstractmethod
    def merge(self, kv: KVBlock) -> KVBlock:
        """Return the cache after merging."""


class MergeNone(Merge):
    """Every token stands for itself."""

    def merge(self, kv: KVBlock) -> KVBlock:
        """Return the cache as it is."""
        return kv


class Quantise(ABC):
    """Turns a layer into small numbers and back."""

    @abstractmethod
    def quantise(self, layer: torch.Tensor) -> dict[str, Array]:
        """Return the arrays of a layer, float32 ``[2, heads, tokens, head_dim]``.

        Raises ``ValueError`` for values that cannot be quantised, such as NaN.
        """

    @abstractmethod
    def restore(self, parts: Mapping[str, Array], size: torch.Size) -> torch.Tensor:
        """Return float32 ``[2, heads, tokens, head_dim]`` of that size. Raises ``ValueError`` for alien arrays."""


class EntropyCode(ABC):
    """Makes arrays smaller without loss."""

    @abstractmethod
    def pack(self, parts: Mapping[str, Array]) -> dict[str, Array]:
        """Return the arrays, or shorter ones."""

    @abstractmethod
    def unpack(self, parts: Mapping[str, Array]) -> dict[str, Array]:
        """Undo :meth:`pack`. Raises ``ValueError`` for alien arrays."""


class StoreAsIs(EntropyCode):
    """Nothing to gain: the arrays as they are."""

    def pack(self, parts: Mapping[str, Array]) -> dict[str, Array]:
        """Return the same arrays."""
        return dict(parts)

    def unpack(self, parts: Mapping[str, Array]) -> dict[str, Array]:
        """Return the same arrays."""
        return dict(parts)


class ChainCodec(Codec):
    """A codec made of the four stages."""

    def __init__(
        self,
        spec: str,
        quantise: Quantise,
        entropy: EntropyCode | None = None,
        select: Select | None = None,
        merge: Merge | None = None,
    ) -> None:
        self._spec = spec
        self._select = select or KeepAll()
        self._merge = merge or MergeNone()
        self._quantise = quantise
        self._entropy = entropy or StoreAsIs()

    @property
    def spec(self) -> str:
        """The name it was made by."""
        return self._spec

    def encode(self, kv: KVBlock) -> Encoded:
        """Run the stages in order."""
        kept = self._merge.merge(self._select.select(kv))
        layers = (self._quantise.quantise(layer.float()) for layer in kept.data)
        return Encoded(layers=tuple(self._entropy.pack(parts) for parts in layers))

    def decoder(
        self, shape: KVShape, tokens: int, shared: Mapping[str, Array], parameters: Mapping[str, Any]
    ) -> LayerDecoder:
        """Return the decoder."""
        return _ChainDecoder(self._quantise, self._entropy)


class _ChainDecoder(LayerDecoder):
    def __init__(self, quantise: Quantise, entropy: EntropyCode) -> None:
        self._quantise = quantise
        self._entropy = entropy

    def decode(self, layer: int, parts: Mapping[str, Array], out: torch.Tensor) -> None:
        """Undo the stages in reverse order."""
        out.copy_(self._quantise.restore(self._entropy.unpack(parts), out.shape))


__all__ = ["ChainCodec", "EntropyCode", "KeepAll", "Merge", "MergeNone", "Quantise", "Select", "StoreAsIs"]
