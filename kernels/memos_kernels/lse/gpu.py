"""The merge in Triton, of tensors anywhere or of parts in one tensor."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from memos_kernels.triton_mode import Tile, launch, pointers, power_of_two


@triton.jit
def _part(base: tl.tensor, part: tl.tensor, size: tl.tensor, like: tl.tensor, stacked: tl.constexpr) -> tl.tensor:
    """Return where a part begins: in one tensor ``size`` elements after another, or by a table of addresses."""
    if stacked:
        return base + part.to(tl.int64) * size
    return tl.load(base + part).to(tl.pointer_type(like.dtype.element_ty))


@triton.jit
def _combine(
    outputs: tl.tensor,
    lses: tl.tensor,
    out: tl.tensor,
    lse: tl.tensor,
    parts: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    stacked: tl.constexpr,
    block_rows: tl.constexpr,
    block_width: tl.constexpr,
) -> None:
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    column = tl.arange(0, block_width)
    real = row < rows
    top = tl.full([block_rows], float("-inf"), tl.float32)
    for part in range(0, parts):
        at = _part(lses, part + tl.program_id(0) * 0, rows, lse, stacked)
        top = tl.maximum(top, tl.load(at + row, mask=real, other=float("-inf")))
    shift = tl.where(top == float("-inf"), 0.0, top)
    total = tl.zeros([block_rows], tl.float32)
    for part in range(0, parts):
        at = _part(lses, part + tl.program_id(0) * 0, rows, lse, stacked)
        total += tl.exp(tl.load(at + row, mask=real, other=float("-inf")) - shift)
    joined = tl.where(total > 0, shift + tl.log(tl.where(total > 0, total, 1.0)), float("-inf"))
    shift = tl.where(total > 0, joined, 0.0)
    offset = row.to(tl.int64)[:, None] * width + column[None, :]
    summed = tl.zeros([block_rows, block_width], tl.float32)
    for part in range(0, parts):
        at = _part(lses, part + tl.program_id(0) * 0, rows, lse, stacked)
        weight = tl.exp(tl.load(at + row, mask=real, other=float("-inf")) - shift)
        inside = (real & (weight > 0))[:, None] & (column < width)[None, :]
        at = _part(outputs, part + tl.program_id(0) * 0, (rows + tl.program_id(0) * 0).to(tl.int64) * width, out, stacked)
        summed += tl.load(at + offset, mask=inside, other=0.0).to(tl.float32) * weight[:, None]
    tl.store(lse + row, joined, mask=real)
    tl.store(out + offset, summed.to(out.dtype.element_ty), mask=real[:, None] & (column < width)[None, :])
