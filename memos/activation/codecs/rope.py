"""Undoing rotary position embedding: keys without their positions vary far less along a channel."""

from __future__ import annotations

from functools import lru_cache

import torch

from memos_kernels import delta_angles, rotate_keys

#: Bases in use among the models of the Llama family (Llama 2, SmolLM2, SmolLM3, Llama 3, Qwen2 and 3, Mistral).
BASES = (1e4, 1e5, 1.3e5, 5e5, 1e6, 5e6)


def rotate(keys: torch.Tensor, base: float, *, back: bool = False) -> torch.Tensor:
    """Rotate float32 keys ``[heads, tokens, head_dim]`` at positions ``0 .. tokens - 1``, or back; base 0: do nothing.

    RoFormer (Su et al., arXiv:2104.09864), in the layout of Llama: ``k' = k cos + rotate_half(k) sin``.
    """
    if not base:
        return keys
    return rotate_keys(keys.contiguous(), *angles(keys.shape[1], keys.shape[2], base, back=back))


def angles(tokens: int, dim: int, base: float, *, back: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosine and sine of positions ``0 .. tokens - 1``, or for turning back, float32 ``[tokens, dim / 2]``."""
    cosine, sine = _angles(tokens, dim, base)
    return cosine, -sine if back else sine


def likely_base(keys: torch.Tensor) -> float:
    """Return the base whose undoing leaves channels of least (geometric mean) variance, 0 for none.

    A base slightly off, or none, makes an encoding longer but never wrong: rotating back and forth is exact.
    """
    if keys.shape[1] < 2 or keys.shape[2] % 2:
        return 0.0
    spreads = {base: _spread(rotate(keys, base, back=True)) for base in (0.0, *BASES)}
    return min(spreads, key=spreads.__getitem__)


def _spread(keys: torch.Tensor) -> float:
    return float(keys.var(dim=1, correction=0).clamp_min(1e-12).log().mean())


@lru_cache(maxsize=2 * len(BASES))
def _angles(tokens: int, dim: int, base: float) -> tuple[torch.Tensor, torch.Tensor]:
    frequencies = base ** (torch.arange(0, dim, 2, dtype=torch.float64) / -dim)
    return delta_angles(torch.zeros(1), torch.arange(tokens), frequencies)
