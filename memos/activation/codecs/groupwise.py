"""Group-wise integers: keys per channel, values per token (KIVI: Liu et al. 2024, arXiv:2402.02750).

Key channels have outliers that stay in their channel, value tokens have not; so keys are framed channel by channel
over ``group`` tokens, values token by token over ``group`` channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from memos.activation.codecs.base import Array
from memos.activation.codecs.bits import WIDTHS
from memos.activation.codecs.stages import ChainCodec, Quantise
from memos.activation.codecs.uniform import quantise, restore


def groupwise(bits: int, group: int | str = 64) -> ChainCodec:
    """Return the codec ``int<bits>``, or ``int<bits>:group=N``."""
    size = int(group)
    spec = f"int{bits}" if size == 64 else f"int{bits}:group={size}"
    return ChainCodec(spec, Groupwise(bits, size))


class Groupwise(Quantise):
    """Keys in groups of tokens, values in groups of channels, both of ``group`` numbers at most."""

    def __init__(self, bits: int, group: int) -> None:
        if bits not in WIDTHS or not 8 <= group <= 4096:
            raise ValueError(f"bits must be among {WIDTHS} and group between 8 and 4096")
        self._bits = bits
        self._group = group

    def quantise(self, layer: torch.Tensor) -> dict[str, Array]:
        """Return codes and frames of keys and values."""
        keys, values = layer
        return {
            **quantise(grouped(keys.transpose(1, 2), self._group), self._bits).named("k"),
            **quantise(grouped(values, self._group), self._bits).named("v"),
        }

    def restore(self, parts: Mapping[str, Array], size: torch.Size) -> torch.Tensor:
        """Return the layer."""
        _, heads, tokens, head_dim = size
        keys = self._restored(parts, "k", heads * head_dim, tokens).view(heads, head_dim, tokens)
        values = self._restored(parts, "v", heads * tokens, head_dim).view(heads, tokens, head_dim)
        return torch.stack([keys.transpose(1, 2), values])

    def _restored(self, parts: Mapping[str, Array], prefix: str, lines: int, length: int) -> torch.Tensor:
        width = min(self._group, length)
        per_line = -(-length // width)
        rows = restore(parts, prefix, lines * per_line, width, self._bits)
        return rows.view(lines, per_line * width)[:, :length].contiguous()


def grouped(lines: torch.Tensor, group: int) -> torch.Tensor:
    """Cut lines ``[..., length]`` into rows ``[rows, min(group, length)]``; the last is filled up with its last number."""
    flat = lines.reshape(-1, lines.shape[-1])
    width = min(group, flat.shape[1])
    missing = -flat.shape[1] % width
    if missing:
        flat = torch.cat([flat, flat[:, -1:].expand(-1, missing)], dim=1)
    return flat.reshape(-1, width)
