"""Asymmetric uniform quantisation of rows, the step under every fixed-rate method here.

    q = round((x - low) / scale),   scale = (max - low) / (2 ** bits - 1),   x' = low + q * scale

``low`` and ``scale`` are float16, one each per row; q is computed from their rounded values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from memos.activation.codecs.base import Array
from memos.activation.codecs.bits import pack, packed_size, unpack

_HALF_MAX = 65_504.0


@dataclass(frozen=True, slots=True)
class Rows:
    """Quantised rows: ``codes`` bytes, ``low`` and ``scale`` float16 ``[rows]``."""

    codes: Array
    low: Array
    scale: Array

    def named(self, prefix: str) -> dict[str, Array]:
        """Return the arrays under short names; rows there are none of take no array."""
        if not self.low.size:
            return {}
        return {f"{prefix}.q": self.codes, f"{prefix}.lo": self.low, f"{prefix}.sc": self.scale}


def quantise(rows: torch.Tensor, bits: int) -> Rows:
    """Quantise float32 ``[rows, length]``. Raises ``ValueError`` for what float16 cannot frame, NaN included."""
    if not rows.numel():
        empty = np.empty(0, np.float16)
        return Rows(np.empty(0, np.uint8), empty, empty)
    least, most = rows.aminmax(dim=1, keepdim=True)
    if not bool((least >= -_HALF_MAX).all() & (most <= _HALF_MAX).all()):
        raise ValueError("a lossy codec takes finite values within the range of float16 only")
    top = 2**bits - 1
    low = least.half()
    scale = ((most - low.float()) / top).half()
    steps = torch.where(scale == 0, 1.0, scale.float())
    codes = ((rows - low.float()) / steps).round_().clamp_(0, top).to(torch.uint8)
    return Rows(pack(codes.numpy(), bits), low[:, 0].numpy(), scale[:, 0].numpy())


def restore(parts: Mapping[str, Array], prefix: str, count: int, length: int, bits: int) -> torch.Tensor:
    """Return float32 ``[count, length]``. Raises ``ValueError`` for arrays that :func:`quantise` did not make."""
    if not count:
        return torch.empty(0, length)
    codes = unpack(part(parts, f"{prefix}.q", np.uint8, packed_size(count * length, bits)), bits, count * length)
    low, scale = (torch.from_numpy(part(parts, f"{prefix}.{name}", np.float16, count)) for name in ("lo", "sc"))
    values = torch.from_numpy(codes.reshape(count, length)).float()
    return values.mul_(scale.float()[:, None]).add_(low.float()[:, None])


def part(parts: Mapping[str, Array], name: str, dtype: type[np.generic], size: int) -> Array:
    """Return a named line of ``size`` numbers. Raises ``ValueError`` if it is missing or another."""
    array = parts.get(name)
    if array is None or array.dtype != dtype or array.shape != (size,):
        raise ValueError(f"the layer has no array {name} of {size} {np.dtype(dtype).name}")
    return array if array.flags.writeable else array.copy()  # torch takes no read-only memory
