"""Gather and scatter in Triton: one launch for all matrices, their pools found through a table of addresses."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from memos_kernels.checks import blocks_of
from memos_kernels.triton_mode import Tile, launch, pointers

#: Integers that bytes are moved as, widest first.
_LANES = (torch.int64, torch.int32, torch.int16, torch.uint8)


@triton.jit
def _copy_runs(
    pools: tl.tensor,
    dense: tl.tensor,
    table: tl.tensor,
    row_stride: tl.tensor,
    entry_stride: tl.tensor,
    heads: tl.tensor,
    tokens: tl.tensor,
    page_tokens: tl.tensor,
    width: tl.tensor,
    blocks: tl.tensor,
    parts: tl.tensor,
    gather: tl.constexpr,
    block: tl.constexpr,
) -> None:
    # The tokens of a page and a head lie side by side in both places: one run, copied in parts.
    run = tl.program_id(0) // parts
    column = run % blocks
    head = run // blocks % heads
    matrix = run // blocks // heads
    at = tl.program_id(0) % parts * block + tl.arange(0, block)
    inside = at < tl.minimum(page_tokens, tokens - column * page_tokens) * width
    page = tl.load(table + matrix * row_stride + column * entry_stride).to(tl.int64)
    pool = tl.load(pools + matrix).to(tl.pointer_type(dense.dtype.element_ty))
    paged = pool + (page * heads + head) * page_tokens * width + at
    first = (matrix * heads + head).to(tl.int64) * tokens + column * page_tokens
    contiguous = dense + first * width + at
    if gather:
        tl.store(contiguous, tl.load(paged, mask=inside), mask=inside)
    else:
        tl.store(paged, tl.load(contiguous, mask=inside), mask=inside)


def gather_pages(pools: list[torch.Tensor], table: torch.Tensor, out: torch.Tensor) -> None:
    """See :func:`memos_kernels.pages.gather_pages`."""
    _copy(pools, table, out, gather=True)


def scatter_pages(source: torch.Tensor, pools: list[torch.Tensor], table: torch.Tensor) -> None:
    """See :func:`memos_kernels.pages.scatter_pages`."""
    _copy(pools, table, source, gather=False)


def _copy(pools: list[torch.Tensor], table: torch.Tensor, dense: torch.Tensor, *, gather: bool) -> None:
    matrices, heads, tokens, head_dim = dense.shape
    if not dense.numel():
        return
    addresses = pointers([*pools, dense], dense.device)
    lane = _lane(pools, dense)
    page_tokens, width = pools[0].shape[2], head_dim * dense.element_size() // lane.itemsize
    blocks = blocks_of(tokens, page_tokens)
    tile = Tile({"gather": gather, "block": 512})
    parts = triton.cdiv(min(page_tokens, tokens) * width, tile.constants["block"])
    launch(
        _copy_runs,
        (matrices * heads * blocks * parts,),
        tile,
        addresses,
        dense.view(lane),
        table,
        *table.stride(),
        heads,
        tokens,
        page_tokens,
        width,
        blocks,
        parts,
    )


def _lane(pools: list[torch.Tensor], dense: torch.Tensor) -> torch.dtype:
    """Return the widest integer whose multiples all rows begin and end at."""
    row = dense.shape[3] * dense.element_size()
    edges = [row, *(tensor.data_ptr() for tensor in [*pools, dense])]
    return next(lane for lane in _LANES if not any(edge % lane.itemsize for edge in edges))
