"""CacheGen: uniform quantisation, coarser in later layers, and an entropy coder (Liu et al., arXiv:2310.07240).

As released, every token of a layer is scaled by its largest magnitude to ``bins`` levels; the first third of the
layers gets the most bins. The released coder then stores a distribution per channel and 256 tokens, 2.06 bits per
element; here a channel stores its centre and the class of its scale, a byte each. The deltas to anchor tokens of the
paper are left out, as in the release.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from memos.activation.codecs.base import Array
from memos.activation.codecs.chain import ChainCodec
from memos.activation.codecs.rans import RowRans
from memos.activation.codecs.stages import Layout, Quantised, Quantiser, Size, floats, half, side_array


@dataclass(frozen=True, slots=True)
class CacheGen(Quantiser):
    """``bins`` levels for keys of the first third of the layers, half as many for the rest and for values."""

    bins: int

    def quantise(self, layer: torch.Tensor, index: int, layers: int) -> Quantised:
        """Return the plane ``kv`` ``[2 * heads * head_dim, tokens]``."""
        early = 3 * index < layers
        limits = torch.tensor([self.bins if early else self.bins // 2, self.bins // 2]) // 2 - 1
        scale = half(layer.abs().amax((1, 3)) / limits[:, None])
        levels = (layer / scale.float().clamp_min(1e-12)[:, None, :, None]).round().clamp(-self.bins, self.bins)
        rows = levels.transpose(2, 3).flatten(0, 2)
        centres = rows.median(1).values if rows.shape[1] else rows.new_zeros(len(rows))
        plane = (rows - centres[:, None]).to(torch.int32).numpy()
        return Quantised({"kv": plane}, {"scale": scale.numpy(), "centre": centres.to(torch.int8).numpy()})

    def layout(self, side: Mapping[str, Array], size: Size) -> dict[str, Layout]:
        """Return the layout of ``kv``."""
        return {"kv": Layout(2 * size.heads * size.head_dim, size.tokens)}

    def dequantise(self, planes: Mapping[str, Array], side: Mapping[str, Array], size: Size) -> torch.Tensor:
        """Return the layer."""
        heads, tokens, dim = size
        scale = floats(side_array(side, "scale", np.float16, (2, tokens)))
        centres = floats(side_array(side, "centre", np.int8, (2 * heads * dim,)))
        levels = (torch.from_numpy(planes["kv"]) + centres[:, None]).view(2, heads, dim, tokens)
        return levels.transpose(2, 3) * scale[:, None, :, None]


def cachegen_codec(bins: int | str = 32) -> ChainCodec:
    """Return the codec; ``bins`` is the number of levels of the finest layers (32 in the release)."""
    count = int(bins)
    if not 8 <= count <= 64:
        raise ValueError("bins goes from 8 to 64")
    return ChainCodec("cachegen" if count == 32 else f"cachegen:bins={count}", CacheGen(count), RowRans())
