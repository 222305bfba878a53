"""Undoing rotary position embedding: keys without their positions vary far less along a channel."""

from __future__ import annotations

from functools import lru_cache

import torch

#: Rotary frequencies in radians per token, one per pair of channels ``(i, i + head_dim / 2)``; none: keys as they are.
Frequencies = tuple[float, ...]


def rotate(keys: torch.Tensor, frequencies: Frequencies, *, back: bool = False) -> torch.Tensor:
    """Rotate float32 keys ``[heads, tokens, head_dim]`` at positions ``0 .. tokens - 1``, or back.

    RoFormer (Su et al., arXiv:2104.09864), in the layout of Llama: ``k' = k cos + rotate_half(k) sin``.
    """
    if not frequencies:
        return keys
    cosine, sine = _angles(keys.shape[1], frequencies)
    first, second = keys.chunk(2, dim=-1)
    sine = -sine if back else sine
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


@lru_cache(maxsize=4)
def _angles(tokens: int, frequencies: Frequencies) -> tuple[torch.Tensor, torch.Tensor]:
    angle = torch.arange(tokens, dtype=torch.float64)[:, None] * torch.tensor(frequencies, dtype=torch.float64)
    return angle.cos().float(), angle.sin().float()
