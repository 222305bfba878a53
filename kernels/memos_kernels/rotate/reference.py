"""Rotation in plain PyTorch."""

from __future__ import annotations

import torch


def rotate_keys(keys: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, out: torch.Tensor) -> None:
    """See :func:`memos_kernels.rotate.rotate_keys`."""
    out.copy_(turned(keys.float(), cosine, sine))


def turned(keys: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Return float32 keys turned, not in place."""
    first, second = keys.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
