"""Rotation in Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from memos_kernels.triton_mode import Tile, launch, power_of_two


@triton.jit
def turned(
    first: tl.tensor, second: tl.tensor, cosine: tl.tensor, sine: tl.tensor, at: tl.tensor, inside: tl.tensor
) -> tl.tensor:
    """Return both float32 halves turned by the angles at offsets ``at``."""
    c = tl.load(cosine + at, mask=inside, other=1.0)
    s = tl.load(sine + at, mask=inside, other=0.0)
    return first * c - second * s, second * c + first * s


@triton.jit
def _rotate(
    keys: tl.tensor,
    cosine: tl.tensor,
    sine: tl.tensor,
    out: tl.tensor,
    tokens: tl.tensor,
    half: tl.tensor,
    angle_stride: tl.tensor,
    chunks: tl.tensor,
    block_tokens: tl.constexpr,
    block_half: tl.constexpr,
) -> None:
    matrix = (tl.program_id(0) // chunks).to(tl.int64)
    token = tl.program_id(0) % chunks * block_tokens + tl.arange(0, block_tokens)[:, None]
    column = tl.arange(0, block_half)[None, :]
    inside = (token < tokens) & (column < half)
    at = matrix * tokens * half * 2 + token * half * 2 + column
    first = tl.load(keys + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(keys + at + half, mask=inside, other=0.0).to(tl.float32)
    first, second = turned(first, second, cosine, sine, token * angle_stride + column, inside)
    # Both halves are read before either is written: `out` may be `keys`.
    tl.store(out + at, first.to(out.dtype.element_ty), mask=inside)
    tl.store(out + at + half, second.to(out.dtype.element_ty), mask=inside)


def rotate_keys(keys: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, out: torch.Tensor) -> None:
    """See :func:`memos_kernels.rotate.rotate_keys`."""
    matrices, tokens, head_dim = keys.shape
    tile = tile_of_halves(head_dim)
    chunks = triton.cdiv(tokens, tile.constants["block_tokens"])
    launch(
        _rotate,
        (matrices * chunks,),
        tile,
        keys,
        cosine,
        sine,
        out,
        tokens,
        head_dim // 2,
        angle_stride(cosine),
        chunks,
    )


def tile_of_halves(head_dim: int, **constants: int) -> Tile:
    """Return a tile of some tokens and half a head, 512 elements; the other half is in a second one."""
    half = power_of_two(head_dim // 2, 32)
    return Tile({**constants, "block_tokens": max(1, 512 // half), "block_half": half})


def angle_stride(cosine: torch.Tensor) -> int:
    """Return how far apart the angles of two tokens are: nothing if all tokens turn alike."""
    return cosine.shape[1] if len(cosine) > 1 else 0
