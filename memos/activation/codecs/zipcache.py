"""ZipCache: more bits for salient tokens, channel-separable frames (He et al. 2024, arXiv:2405.14256).

Salient tokens get 4 bits, the others 2. Keys are framed per channel; values are first divided by the square root of
their channel's largest magnitude and then framed per token, which spares a frame per group. The paper finds salient
tokens by the attention of probe queries; a memory has no queries yet, so KeyDiff finds them here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from memos.activation.codecs.base import Array
from memos.activation.codecs.bits import pack, packed_size, unpack
from memos.activation.codecs.importance import key_diff, most_important
from memos.activation.codecs.stages import ChainCodec, Quantise
from memos.activation.codecs.uniform import part, quantise, restore

#: Bits of salient tokens and of the others.
HIGH, LOW = 4, 2


def zipcache(salient: float | str = 0.6) -> ChainCodec:
    """Return the codec; ``salient`` is the share of tokens with 4 bits (the paper's 0.6 by default)."""
    share = float(salient)
    return ChainCodec("zipcache" if share == 0.6 else f"zipcache:salient={share:g}", ZipCache(share))


class ZipCache(Quantise):
    """The same tokens are salient in all heads of a layer."""

    def __init__(self, salient: float) -> None:
        if not 0 <= salient <= 1:
            raise ValueError("salient is a share between 0 and 1")
        self._salient = salient

    def quantise(self, layer: torch.Tensor) -> dict[str, Array]:
        """Return which tokens are salient, the values' channel scales, and two sets of codes and frames."""
        keys, values = layer
        salient = most_important(key_diff(keys).mean(dim=0), self._salient)
        scale = values.abs().amax(dim=1).sqrt().clamp_min(1e-4).half()  # [heads, head_dim]
        parts: dict[str, Array] = {
            "salient": pack(salient.numpy().astype(np.uint8), 1),
            "channel": scale.reshape(-1).numpy(),
        }
        scaled = values / scale.float().unsqueeze(1)
        for name, mask, bits in (("hi", salient, HIGH), ("lo", ~salient, LOW)):
            if mask.any():
                by_channel = keys[:, mask].transpose(1, 2).reshape(-1, int(mask.sum()))
                parts |= quantise(by_channel, bits).named(f"k{name}")
                parts |= quantise(scaled[:, mask].reshape(-1, values.shape[-1]), bits).named(f"v{name}")
        return parts

    def restore(self, parts: Mapping[str, Array], size: torch.Size) -> torch.Tensor:
        """Return the layer."""
        _, heads, tokens, head_dim = size
        flags = part(parts, "salient", np.uint8, packed_size(tokens, 1))
        salient = torch.from_numpy(unpack(flags, 1, tokens)).bool()
        scale = torch.from_numpy(part(parts, "channel", np.float16, heads * head_dim)).float().view(heads, 1, head_dim)
        out = torch.empty(size)
        for name, mask, bits in (("hi", salient, HIGH), ("lo", ~salient, LOW)):
            count = int(mask.sum())
            if count:
                keys = restore(parts, f"k{name}", heads * head_dim, count, bits)
                out[0][:, mask] = keys.view(heads, head_dim, count).transpose(1, 2)
                values = restore(parts, f"v{name}", heads * count, head_dim, bits)
                out[1][:, mask] = values.view(heads, count, head_dim) * scale
        return out
