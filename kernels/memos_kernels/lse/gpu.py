"""The merge in Triton, of tensors anywhere or of parts one after the other."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from memos_kernels.triton_mode import Tile, launch, pointers


@triton.jit
def _begin(base: tl.tensor, like: tl.tensor, stacked: tl.constexpr) -> tl.tensor:
    """Return where a part begins: here, or where the address found here says."""
    return base if stacked else tl.load(base).to(tl.pointer_type(like.dtype.element_ty))


@triton.jit
def _combine(
    outputs: tl.tensor,
    lses: tl.tensor,
    out: tl.tensor,
    lse: tl.tensor,
    parts: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    output_stride: tl.tensor,
    lse_stride: tl.tensor,
    stacked: tl.constexpr,
    block_rows: tl.constexpr,
    block_width: tl.constexpr,
) -> None:
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    column = tl.program_id(1) * block_width + tl.arange(0, block_width)[None, :]
    real = row < rows
    top = tl.full([block_rows], float("-inf"), tl.float32)
    part_lse = lses
    for _ in range(parts):
        top = tl.maximum(top, tl.load(_begin(part_lse, lse, stacked) + row, mask=real, other=float("-inf")))
        part_lse += lse_stride
    top = tl.where(top > float("-inf"), top, 0.0)
    total = tl.zeros([block_rows], tl.float32)
    part_lse = lses
    for _ in range(parts):
        total += tl.exp(tl.load(_begin(part_lse, lse, stacked) + row, mask=real, other=float("-inf")) - top)
        part_lse += lse_stride
    joined = top + tl.log(tl.where(total > 0, total, 1.0))
    offset = row.to(tl.int64)[:, None] * width + column
    summed = tl.zeros([block_rows, block_width], tl.float32)
    part_lse = lses
    for _ in range(parts):
        here = tl.load(_begin(part_lse, lse, stacked) + row, mask=real, other=float("-inf"))
        # What a part without keys holds must not count, be it not a number: it is not read.
        present = (here > float("-inf"))[:, None] & (column < width)
        output = tl.load(_begin(outputs, out, stacked) + offset, mask=present, other=0.0).to(tl.float32)
        summed += output * tl.exp(here - joined)[:, None]
        part_lse += lse_stride
        outputs += output_stride
    if tl.program_id(1) == 0:
        tl.store(lse + row, tl.where(total > 0, joined, float("-inf")), mask=real)
    tl.store(out + offset, summed.to(out.dtype.element_ty), mask=real[:, None] & (column < width))


def combine_lse(outputs: list[torch.Tensor], lses: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`memos_kernels.lse.combine_lse`."""
    out, lse = torch.empty_like(outputs[0]), torch.empty_like(lses[0])
    addresses = (pointers(outputs, out.device), pointers(lses, out.device))
    _launch(*addresses, out, lse, len(outputs), (1, 1), stacked=False)
    return out, lse


def combine_stacked(outputs: torch.Tensor, lses: torch.Tensor, out: torch.Tensor, lse: torch.Tensor) -> None:
    """Merge float32 parts ``[parts, .., D]`` and ``[parts, ..]`` into ``out`` of any dtype, without their addresses."""
    _launch(outputs, lses, out, lse, len(outputs), (out.numel(), lse.numel()), stacked=True)


def _launch(
    outputs: torch.Tensor,
    lses: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    parts: int,
    strides: tuple[int, int],
    *,
    stacked: bool,
) -> None:
    rows, width = lse.numel(), out.shape[-1]
    tile = Tile({"stacked": stacked, "block_rows": 16, "block_width": 64})
    grid = (triton.cdiv(rows, tile.constants["block_rows"]), max(1, triton.cdiv(width, tile.constants["block_width"])))
    launch(_combine, grid, tile, outputs, lses, out, lse, parts, rows, width, *strides)
