"""Exact compression: exponent planes through zstd, mantissas as they are.

The exponents of a key or value channel take few values, its mantissas are as good as random. So the words are split
into byte planes (kernels/memos_kernels/byte_planes.py), the exponent plane is laid out channel by channel and
compressed (zstd, RFC 8878), and a plane that does not get smaller is stored as it is, which costs nothing to decode.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import zstandard

from memos.activation.codecs.base import Array, LayerCodec, LayerDecoder, as_words
from memos.activation.kv import KVShape
from memos_kernels.byte_planes import join16, join32, split16, split32

#: A plane is compressed if that saves at least this share of it: less is not worth the time to decode.
_WORTH = 0.04


class LosslessCodec(LayerCodec):
    """Byte planes and zstd; ``level`` is zstd's."""

    exact = True

    def __init__(self, level: int | str = 1) -> None:
        self._level = int(level)
        if not 1 <= self._level <= 19:
            raise ValueError("level goes from 1 to 19")

    @property
    def spec(self) -> str:
        """``lossless``, or ``lossless:level=N``."""
        return "lossless" if self._level == 1 else f"lossless:level={self._level}"

    def encode_layer(self, layer: torch.Tensor, index: int, layers: int) -> dict[str, Array]:
        """Encode a layer of any dtype and any values, NaN included."""
        compressor = zstandard.ZstdCompressor(level=self._level)
        planes = _split(as_words(layer).reshape(-1, *layer.shape[2:]))
        return {name: _packed(plane, compressor) for name, plane in planes.items()}

    def decoder(
        self, shape: KVShape, tokens: int, shared: Mapping[str, Array], parameters: Mapping[str, Any]
    ) -> LayerDecoder:
        """Return the decoder."""
        return _Planes()


class _Planes(LayerDecoder):
    def decode(self, layer: int, parts: Mapping[str, Array], out: torch.Tensor) -> None:
        """Join the planes of a layer."""
        words = as_words(out).reshape(-1, *out.shape[2:])
        matrices, tokens, channels = words.shape
        exponent = _unpacked(parts, "exponent", np.uint8, (matrices, channels, tokens))
        if words.dtype == np.uint16:
            join16(exponent, _unpacked(parts, "rest", np.uint8, words.shape), words)
            return
        middle = _unpacked(parts, "middle", np.uint8, words.shape)
        join32(exponent, middle, _unpacked(parts, "low", np.uint16, words.shape), words)


def _split(words: Array) -> dict[str, Array]:
    matrices, tokens, channels = words.shape
    exponent = np.empty((matrices, channels, tokens), np.uint8)
    if words.dtype == np.uint16:
        rest = np.empty(words.shape, np.uint8)
        split16(words, exponent, rest)
        return {"exponent": exponent, "rest": rest}
    middle, low = np.empty(words.shape, np.uint8), np.empty(words.shape, np.uint16)
    split32(words, exponent, middle, low)
    return {"exponent": exponent, "middle": middle, "low": low}


def _packed(plane: Array, compressor: zstandard.ZstdCompressor) -> Array:
    """Return a plane compressed, as a line of bytes, or as it is where that is not worth it."""
    small = compressor.compress(plane.data)
    return np.frombuffer(small, np.uint8) if len(small) <= (1 - _WORTH) * plane.nbytes else plane


def _unpacked(parts: Mapping[str, Array], name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> Array:
    part = parts.get(name)
    if part is None:
        raise ValueError(f"the layer has no {name} plane")
    if part.shape == shape and part.dtype == dtype and part.flags.c_contiguous:
        return part
    if part.dtype != np.uint8 or part.ndim != 1:
        raise ValueError(f"the {name} plane is of another shape")
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    try:
        data = zstandard.ZstdDecompressor().decompress(part.data, max_output_size=size)
    except zstandard.ZstdError as error:
        raise ValueError(f"the {name} plane cannot be decompressed: {error}") from error
    if len(data) != size:
        raise ValueError(f"the {name} plane has {len(data)} bytes, not {size}")
    return np.frombuffer(data, dtype).reshape(shape)
