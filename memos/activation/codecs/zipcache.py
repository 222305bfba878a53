"""ZipCache: more bits for salient tokens, channel-separable frames (He et al. 2024, arXiv:2405.14256).

Salient tokens get 4 bits, the others 2. Keys are framed per channel; values are first divided by the square root of
their channel's largest magnitude and then framed per token, which spares a frame per group. The paper finds salient
tokens by the attention of probe queries; a memory has no queries yet, so KeyDiff finds them here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from memos.activation.codecs.base import Array
from memos.activation.codecs.bitpack import Bitpack
from memos.activation.codecs.chain import ChainCodec
from memos.activation.codecs.groupwise import affine, unaffine
from memos.activation.codecs.importance import key_diff, most_important
from memos.activation.codecs.stages import Layout, Quantised, Quantiser, Size, floats, half, side_array

#: Bits of the other tokens and of the salient ones, by the flag that tells them apart.
BITS = (2, 4)


@dataclass(frozen=True, slots=True)
class ZipCache(Quantiser):
    """``salient``: the share of tokens with 4 bits; the same tokens in all heads of a layer."""

    salient: float

    def quantise(self, layer: torch.Tensor, index: int, layers: int) -> Quantised:
        """Return planes ``k`` ``[heads * head_dim, tokens of a kind]`` and ``v`` ``[heads * tokens, head_dim]``."""
        keys, values = layer
        flags = most_important(key_diff(keys).mean(dim=0), self.salient)
        channel = half(values.abs().amax(dim=1).sqrt().clamp_min(1e-4))  # [heads, head_dim]
        scaled = values / channel.float().unsqueeze(1)
        planes: dict[str, Array] = {}
        side: dict[str, Array] = {"salient": np.packbits(flags.numpy()), "channel": channel.numpy()}
        for kind, bits in enumerate(BITS):
            mine = flags == bool(kind)
            if not mine.any():
                continue
            by_channel = keys[:, mine].transpose(1, 2).flatten(0, 1)
            planes[f"k{kind}"], side[f"k{kind}"] = affine(by_channel, bits, by_channel.shape[1])
            planes[f"v{kind}"], side[f"v{kind}"] = affine(scaled[:, mine].flatten(0, 1), bits, values.shape[2])
        return Quantised(planes, side)

    def layout(self, side: Mapping[str, Array], size: Size) -> dict[str, Layout]:
        """Return the layouts of both kinds of tokens, of which one may be missing."""
        flags = flagged(side, "salient", (size.tokens,))
        found: dict[str, Layout] = {}
        for kind, bits in enumerate(BITS):
            count = int((flags == bool(kind)).sum())
            if count:
                found[f"k{kind}"] = Layout(size.heads * size.head_dim, count, bits)
                found[f"v{kind}"] = Layout(size.heads * count, size.head_dim, bits)
        return found

    def dequantise(self, planes: Mapping[str, Array], side: Mapping[str, Array], size: Size) -> torch.Tensor:
        """Return the layer."""
        heads, tokens, dim = size
        flags = torch.from_numpy(flagged(side, "salient", (tokens,)))
        channel = floats(side_array(side, "channel", np.float16, (heads, dim))).unsqueeze(1)
        layer = torch.empty(2, *size)
        for kind in range(len(BITS)):
            if f"k{kind}" in planes:
                mine = flags == bool(kind)
                count = int(mine.sum())
                keys = unaffine(planes[f"k{kind}"], side, f"k{kind}", count).reshape(heads, dim, count)
                layer[0][:, mine] = keys.transpose(1, 2)
                values = unaffine(planes[f"v{kind}"], side, f"v{kind}", dim).reshape(heads, count, dim)
                layer[1][:, mine] = values * channel
        return layer


def flagged(side: Mapping[str, Array], name: str, shape: tuple[int, ...]) -> Array:
    """Return flags, bool of ``shape``, that ``numpy.packbits`` packed. Raises ``ValueError`` for another number."""
    count = int(np.prod(shape))
    packed = side_array(side, name, np.uint8, (-(-count // 8),))
    return np.unpackbits(packed, count=count).astype(bool).reshape(shape)


def zipcache_codec(salient: float | str = 0.6) -> ChainCodec:
    """Return the codec; ``salient`` is the share of tokens with 4 bits (the paper's 0.6 by default)."""
    share = float(salient)
    if not 0 <= share <= 1:
        raise ValueError("salient is a share between 0 and 1")
    return ChainCodec("zipcache" if share == 0.6 else f"zipcache:salient={share:g}", ZipCache(share), Bitpack())
