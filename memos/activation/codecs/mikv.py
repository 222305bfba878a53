"""MiKV: no token is dropped, unimportant ones are kept with fewer bits (Yang et al. 2024, arXiv:2402.18096).

Important tokens keep 8 bits, the others 2 to 4, framed token by token, per head. Key channels are balanced first: the
paper divides by a factor of queries and keys; without queries, by the root of each channel's largest magnitude.
Importance is the paper's attention mass where a prompt is known; here KeyDiff.
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
from memos.activation.codecs.zipcache import flagged

#: Bits of important tokens.
HIGH = 8


@dataclass(frozen=True, slots=True)
class MiKV(Quantiser):
    """``important``: the share of tokens with 8 bits, chosen by every head for itself; ``bits`` of the others."""

    important: float
    bits: int

    def quantise(self, layer: torch.Tensor, index: int, layers: int) -> Quantised:
        """Return planes ``k`` and ``v`` ``[tokens of a kind, head_dim]``, all heads in one."""
        keys, values = layer
        flags = most_important(key_diff(keys), self.important)  # [heads, tokens]
        balance = half(keys.abs().amax(dim=1).sqrt().clamp_min(1e-4))
        balanced = keys / balance.float().unsqueeze(1)
        planes: dict[str, Array] = {}
        side: dict[str, Array] = {"important": np.packbits(flags.numpy()), "balance": balance.numpy()}
        for kind, bits in enumerate((self.bits, HIGH)):
            mine = flags == bool(kind)
            if mine.any():
                planes[f"k{kind}"], side[f"k{kind}"] = affine(balanced[mine], bits, keys.shape[2])
                planes[f"v{kind}"], side[f"v{kind}"] = affine(values[mine], bits, keys.shape[2])
        return Quantised(planes, side)

    def layout(self, side: Mapping[str, Array], size: Size) -> dict[str, Layout]:
        """Return the layouts of both kinds of tokens, of which one may be missing."""
        flags = flagged(side, "important", (size.heads, size.tokens))
        counts = (int((~flags).sum()), int(flags.sum()))
        return {
            f"{name}{kind}": Layout(count, size.head_dim, bits)
            for kind, (count, bits) in enumerate(zip(counts, (self.bits, HIGH), strict=True))
            for name in ("k", "v")
            if count
        }

    def dequantise(self, planes: Mapping[str, Array], side: Mapping[str, Array], size: Size) -> torch.Tensor:
        """Return the layer."""
        heads, tokens, dim = size
        flags = torch.from_numpy(flagged(side, "important", (heads, tokens)))
        layer = torch.empty(2, *size)
        for place, name in enumerate(("k", "v")):
            for kind in (0, 1):
                if f"{name}{kind}" in planes:
                    layer[place][flags == bool(kind)] = unaffine(planes[f"{name}{kind}"], side, f"{name}{kind}", dim)
        layer[0] *= floats(side_array(side, "balance", np.float16, (heads, dim))).unsqueeze(1)
        return layer


def mikv_codec(important: float | str = 0.2, bits: int | str = 2) -> ChainCodec:
    """Return the codec; ``important`` is the share of tokens with 8 bits, ``bits`` what the others get."""
    share, low = float(important), int(bits)
    if not 0 <= share <= 1 or low not in (2, 3, 4):
        raise ValueError("important is a share between 0 and 1, and bits 2, 3 or 4")
    spec = "mikv" if (share, low) == (0.2, 2) else f"mikv:important={share:g},bits={low}"
    return ChainCodec(spec, MiKV(share, low), Bitpack())
