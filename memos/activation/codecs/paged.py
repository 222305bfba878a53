"""Integer pages: what :mod:`memos_kernels` quantises, decodes, turns and writes to its place in one pass.

Keys by channel within a page of tokens, values by token (KIVI, Liu et al., arXiv:2402.02750). Keys are rotated back to
position 0 before, where a channel varies less, and turned to their positions as they are decoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from memos.activation.codecs.base import Array, LayerCodec, LayerDecoder
from memos.activation.codecs.rope import angles, likely_base
from memos.activation.codecs.stages import Size, side_array
from memos.activation.kv import KVShape
from memos_kernels import QuantisedPages, dequant_rotate_gather, quantise_pages

#: Tokens in a page.
GROUP = 64


class PagedCodec(LayerCodec):
    """``bits`` (8 or 4) per element, pages of ``group`` tokens."""

    def __init__(self, bits: int, group: int = GROUP) -> None:
        self._bits = bits
        self._group = group

    @property
    def spec(self) -> str:
        """``int8`` or ``int4``, with the group where it is not the default."""
        return f"int{self._bits}" + (f":group={self._group}" if self._group != GROUP else "")

    def decoder(
        self, shape: KVShape, tokens: int, shared: Mapping[str, Array], parameters: Mapping[str, Any]
    ) -> LayerDecoder:
        """Return the decoder."""
        return _Decoder(self._bits, self._group, Size(shape.heads, tokens, shape.head_dim))

    def encode_layer(self, layer: torch.Tensor, index: int, layers: int) -> dict[str, Array]:
        """Encode a layer. Raises ``ValueError`` if it holds NaN, infinity or numbers too large for float16."""
        layer = layer.cpu()
        _, heads, tokens, head_dim = layer.shape
        blocks = -(-tokens // self._group)
        pages = QuantisedPages.empty(blocks, heads, self._group, head_dim, self._bits)
        base = likely_base(layer[0].float())
        turn = angles(tokens, head_dim, base, back=True) if base else None
        quantise_pages(layer.unsqueeze(0).contiguous(), pages, _row(blocks), turn)
        arrays = {name: getattr(pages, name).numpy() for name in _PARTS}
        return arrays | {"base": np.array([base], np.float32)}


_PARTS = ("keys", "values", "key_ranges", "value_ranges")


@dataclass(frozen=True, slots=True)
class _Decoder(LayerDecoder):
    bits: int
    group: int
    size: Size

    def decode(self, layer: int, parts: Mapping[str, Array], out: torch.Tensor) -> None:
        """Write the layer as one page of keys and one of values."""
        if out.shape != (2, *self.size):
            raise ValueError(f"a layer of {list(self.size)} does not fit {list(out.shape)}")
        base = float(side_array(parts, "base", np.float32, (1,))[0])
        _, tokens, head_dim = self.size
        if base < 0 or (base and head_dim % 2):
            raise ValueError("no rotary base")
        turn = angles(tokens, head_dim, base) if base else None
        pages = self._pages(parts)
        dequant_rotate_gather(pages, _row(len(pages.keys)), tokens, out, _row(2).view(1, 2, 1), turn)

    def _pages(self, parts: Mapping[str, Array]) -> QuantisedPages:
        heads, tokens, head_dim = self.size
        blocks = -(-tokens // self.group)
        codes = (blocks, heads, self.group, head_dim * self.bits // 8)
        return QuantisedPages(
            _tensor(side_array(parts, "keys", np.uint8, codes)),
            _tensor(side_array(parts, "values", np.uint8, codes)),
            _tensor(side_array(parts, "key_ranges", np.float16, (blocks, heads, 2, head_dim))),
            _tensor(side_array(parts, "value_ranges", np.float16, (blocks, heads, 2, self.group))),
            self.bits,
        )


def paged_codec(bits: int, group: str = str(GROUP)) -> PagedCodec:
    """Return the codec. Raises ``ValueError`` for a group below 2."""
    size = int(group)
    if size < 2:
        raise ValueError(f"a group of {size} tokens is too small")
    return PagedCodec(bits, size)


def _row(pages: int) -> torch.Tensor:
    return torch.arange(pages, dtype=torch.int32).unsqueeze(0)


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())
