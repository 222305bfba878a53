"""Group-wise affine quantisation: keys per channel, values per token (KIVI, Liu et al., arXiv:2402.02750).

Keys have channels of large values, so the tokens of one channel share a scale; values have none, so the channels of
one token do. With ``n = 2 ** bits - 1`` steps between the least and greatest of a group::

    scale = (max - min) / n,   q = round((x - min) / scale),   x' = q * scale + min
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from memos.activation.codecs.base import Array
from memos.activation.codecs.bitpack import Bitpack
from memos.activation.codecs.chain import ChainCodec
from memos.activation.codecs.stages import Layout, Quantised, Quantiser, Size, floats, half, side_array


@dataclass(frozen=True, slots=True)
class Groupwise(Quantiser):
    """``bits`` per element; groups of ``group`` tokens for keys and of ``group`` channels for values."""

    bits: int
    group: int

    def quantise(self, layer: torch.Tensor, index: int, layers: int) -> Quantised:
        """Return planes ``k`` ``[heads * head_dim, tokens]`` and ``v`` ``[heads * tokens, head_dim]``."""
        key, key_range = affine(_rows(layer[0].transpose(1, 2)), self.bits, self.group)
        value, value_range = affine(_rows(layer[1]), self.bits, self.group)
        return Quantised({"k": key, "v": value}, {"k": key_range, "v": value_range})

    def layout(self, side: Mapping[str, Array], size: Size) -> dict[str, Layout]:
        """Return the layouts of ``k`` and ``v``."""
        return {
            "k": Layout(size.heads * size.head_dim, size.tokens, self.bits),
            "v": Layout(size.heads * size.tokens, size.head_dim, self.bits),
        }

    def dequantise(self, planes: Mapping[str, Array], side: Mapping[str, Array], size: Size) -> torch.Tensor:
        """Return the layer."""
        key = unaffine(planes["k"], side, "k", self.group).reshape(size.heads, size.head_dim, size.tokens)
        value = unaffine(planes["v"], side, "v", self.group).reshape(size)
        return torch.stack([key.transpose(1, 2), value])


def affine(rows: torch.Tensor, bits: int, group: int) -> tuple[Array, Array]:
    """Quantise ``[rows, columns]`` by groups of ``group`` columns, the last one shorter.

    Returns levels uint8 ``[rows, columns]`` and least value and scale, float16 ``[rows, groups, 2]``.
    """
    count, columns = rows.shape
    edge = rows[:, -1:].expand(count, -columns % group)
    grouped = torch.cat([rows, edge], 1).reshape(count, -1, group)
    least, most = grouped.amin(-1), grouped.amax(-1)
    ranges = half(torch.stack([least, (most - least) / (2**bits - 1)], -1))
    floor, scale = ranges.float().unbind(-1)
    levels = ((grouped - floor[..., None]) / scale.clamp_min(1e-12)[..., None]).round().clamp(0, 2**bits - 1)
    return levels.to(torch.uint8).reshape(count, -1)[:, :columns].numpy(), ranges.numpy()


def unaffine(levels: Array, side: Mapping[str, Array], name: str, group: int) -> torch.Tensor:
    """Undo :func:`affine` to float32. Raises ``ValueError`` when the side array ``name`` does not fit."""
    count, columns = levels.shape
    ranges = floats(side_array(side, name, np.float16, (count, -(-columns // group), 2)))
    floor, scale = ranges.unbind(-1)
    whole = torch.from_numpy(np.pad(levels, ((0, 0), (0, -columns % group))))
    values = whole.reshape(count, -1, group).float() * scale[..., None] + floor[..., None]
    return values.reshape(count, -1)[:, :columns]


def groupwise_codec(bits: int, group: int | str = 64) -> ChainCodec:
    """Return the codec ``int{bits}``; ``group`` is the number of elements that share a scale."""
    size = int(group)
    if not 8 <= size <= 4096:
        raise ValueError("group goes from 8 to 4096")
    spec = f"int{bits}" if size == 64 else f"int{bits}:group={size}"
    return ChainCodec(spec, Groupwise(bits, size), Bitpack())


def _rows(values: torch.Tensor) -> torch.Tensor:
    return values.reshape(-1, values.shape[-1])
