"""The codec chain: how a :class:`KVBlock` becomes named arrays of bytes and back, one layer at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from memos.activation.kv import KVBlock, KVShape
from memos.activation.ragged import RaggedLayout
from memos.activation.seen import Need

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded cache.

    ``layers[l]`` holds the arrays of layer ``l``, ``shared`` those that several layers need; both map a short name to
    a contiguous array of any plain numpy dtype. ``parameters`` (JSON) is what :meth:`Codec.decoder` needs besides.
    """

    layers: tuple[dict[str, Array], ...]
    shared: dict[str, Array] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """The payload in bytes, without the container's header."""
        parts = [*self.shared.values(), *(array for layer in self.layers for array in layer.values())]
        return sum(array.nbytes for array in parts)


class LayerDecoder(ABC):
    """Decodes the layers of one cache, in any order and from several threads."""

    @abstractmethod
    def decode(self, layer: int, parts: Mapping[str, Array], out: torch.Tensor) -> None:
        """Write a layer into ``out`` ``[2, heads, tokens, head_dim]`` (contiguous, the cache's dtype).

        ``parts`` are the layer's arrays, already verified against their checksums. Raises ``ValueError`` when they
        cannot be what :meth:`Codec.encode` made.
        """


class Codec(ABC):
    """A chain of stages. ``spec`` names it with all its parameters, such as ``int4:group=64``."""

    #: Whether decoding returns exactly the bits that were encoded.
    exact: bool = False

    @property
    @abstractmethod
    def spec(self) -> str:
        """The name that :func:`memos.activation.codecs.registry.make_codec` turns back into this codec."""

    #: What has to be noted of a prompt's queries while its cache is computed (``KVBlock.seen``).
    needs: frozenset[Need] = frozenset()

    @abstractmethod
    def encode(self, kv: KVBlock) -> Encoded:
        """Encode a cache. Raises ``ValueError`` for one that cannot be, or that lacks what the codec needs."""

    @abstractmethod
    def decoder(
        self, shape: KVShape, tokens: int, shared: Mapping[str, Array], parameters: Mapping[str, Any]
    ) -> LayerDecoder:
        """Return a decoder for one cache. Raises ``ValueError`` when ``shared`` or ``parameters`` do not fit."""


class LayerCodec(Codec):
    """A codec that encodes every layer for itself."""

    def encode(self, kv: KVBlock) -> Encoded:
        """Encode a cache, layer by layer. Raises what :meth:`encode_layer` raises."""
        layers = len(kv.data)
        return Encoded(tuple(self.encode_layer(layer, index, layers) for index, layer in enumerate(kv.data)))

    @abstractmethod
    def encode_layer(self, layer: torch.Tensor, index: int, layers: int) -> dict[str, Array]:
        """Encode layer ``index`` of ``layers``, ``[2, heads, tokens, head_dim]``. Raises ``ValueError``."""


class RaggedDecoder(LayerDecoder):
    """Decodes the layers of a cache whose heads keep tokens of their own choice, as ``layout`` says.

    :meth:`decode` writes ``[2, entries, head_dim]``.
    """

    layout: RaggedLayout


def as_words(tensor: torch.Tensor) -> Array:
    """Return the bits of a contiguous CPU tensor as unsigned integers of its width (numpy has no bfloat16)."""
    widths = {2: (torch.int16, np.uint16), 4: (torch.int32, np.uint32)}
    signed, unsigned = widths[tensor.element_size()]
    return tensor.contiguous().view(signed).numpy().view(unsigned)
