"""MiKV: no token is dropped, unimportant ones are kept with fewer bits (Yang et al. 2024, arXiv:2402.18096).

Important tokens keep 8 bits, the others 2 to 4, framed token by token, per head. Key channels are balanced first: the
paper divides by a factor of queries and keys; without queries, by the root of each channel's largest magnitude.
Importance is the paper's attention mass where a prompt is known; here KeyDiff.
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

#: Bits of important tokens.
HIGH = 8


def mikv(important: float | str = 0.2, bits: int | str = 2) -> ChainCodec:
    """Return the codec; ``important`` is the share of tokens with 8 bits, ``bits`` what the others get."""
    share, low = float(important), int(bits)
    return ChainCodec(f"mikv:important={share:g},bits={low}", MiKV(share, low))


class MiKV(Quantise):
    """Every head chooses its own important tokens."""

    def __init__(self, important: float, bits: int) -> None:
        if not 0 <= important <= 1 or bits not in (2, 3, 4):
            raise ValueError("important is a share between 0 and 1, and bits 2, 3 or 4")
        self._important = important
        self._bits = bits

    def quantise(self, layer: torch.Tensor) -> dict[str, Array]:
        """Return which tokens are important, the channel balances of keys, and two sets of codes and frames."""
        keys, values = layer
        important = most_important(key_diff(keys), self._important)
        balance = keys.abs().amax(dim=1).sqrt().clamp_min(1e-4).half()
        parts: dict[str, Array] = {
            "important": pack(important.numpy().astype(np.uint8), 1),
            "balance": balance.reshape(-1).numpy(),
        }
        balanced = keys / balance.float().unsqueeze(1)
        for name, mask, bits in (("hi", important, HIGH), ("lo", ~important, self._bits)):
            parts |= quantise(balanced[mask], bits).named(f"k{name}")
            parts |= quantise(values[mask], bits).named(f"v{name}")
        return parts

    def restore(self, parts: Mapping[str, Array], size: torch.Size) -> torch.Tensor:
        """Return the layer."""
        _, heads, tokens, head_dim = size
        flags = part(parts, "important", np.uint8, packed_size(heads * tokens, 1))
        important = torch.from_numpy(unpack(flags, 1, heads * tokens)).bool().view(heads, tokens)
        balance = torch.from_numpy(part(parts, "balance", np.float16, heads * head_dim)).float()
        out = torch.empty(size)
        for name, mask, bits in (("hi", important, HIGH), ("lo", ~important, self._bits)):
            count = int(mask.sum())
            out[0][mask] = restore(parts, f"k{name}", count, head_dim, bits)
            out[1][mask] = restore(parts, f"v{name}", count, head_dim, bits)
        out[0] *= balance.view(heads, 1, head_dim)
        return out
