"""No compression: the layer's bytes as they lie in memory. What the fastest load path reads straight into place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from memos.activation.codecs.base import Array, LayerCodec, LayerDecoder, as_words
from memos.activation.kv import KVShape

PART = "kv"


class RawCodec(LayerCodec):
    """Stores ``[2, heads, tokens, head_dim]`` per layer as one array named :data:`PART`."""

    exact = True

    @property
    def spec(self) -> str:
        """``raw``."""
        return "raw"

    def encode_layer(self, layer: torch.Tensor, index: int, layers: int) -> dict[str, Array]:
        """Return a view of the layer; nothing is copied."""
        return {PART: as_words(layer)}

    def decoder(
        self, shape: KVShape, tokens: int, shared: Mapping[str, Array], parameters: Mapping[str, Any]
    ) -> LayerDecoder:
        """Return the decoder."""
        return _Copy()


class _Copy(LayerDecoder):
    def decode(self, layer: int, parts: Mapping[str, Array], out: torch.Tensor) -> None:
        """Copy the bits."""
        words, part = as_words(out), parts.get(PART)
        if part is None or part.shape != words.shape or part.dtype != words.dtype:
            raise ValueError("a raw layer of another shape")
        words[...] = part
