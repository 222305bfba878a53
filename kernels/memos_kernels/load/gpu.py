"""The load path in Triton: a program for each page and head reads codes once and writes keys and values once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from memos_kernels.checks import blocks_of
from memos_kernels.quantise import QuantisedPages
from memos_kernels.rotate.gpu import angle_stride, tile_of_halves, turned
from memos_kernels.triton_mode import launch


@triton.jit
def _codes(
    codes: tl.tensor, token: tl.tensor, column: tl.tensor, half: tl.tensor, inside: tl.tensor, bits: tl.constexpr
) -> tl.tensor:
    """Return the codes of both halves of a head as float32."""
    at = codes + token * (half * bits // 4) + column
    low = tl.load(at, mask=inside, other=0)
    if bits == 8:
        return low.to(tl.float32), tl.load(at + half, mask=inside, other=0).to(tl.float32)
    return (low & 15).to(tl.float32), (low >> 4).to(tl.float32)


@triton.jit
def _target(
    out: tl.tensor,
    row: tl.tensor,
    place: tl.tensor,
    head: tl.tensor,
    heads: tl.tensor,
    out_tokens: tl.tensor,
    half: tl.tensor,
    real: tl.tensor,
) -> tl.tensor:
    """Return where the tokens at ``place`` of the sequence begin in the pages of a table's row."""
    page = tl.load(row + place // out_tokens, mask=real, other=0).to(tl.int64)
    return out + ((page * heads + head) * out_tokens + place % out_tokens) * half * 2


@triton.jit
def _load_pages(
    keys: tl.tensor,
    values: tl.tensor,
    key_ranges: tl.tensor,
    value_ranges: tl.tensor,
    table: tl.tensor,
    out: tl.tensor,
    out_table: tl.tensor,
    cosine: tl.tensor,
    sine: tl.tensor,
    heads: tl.tensor,
    tokens: tl.tensor,
    half: tl.tensor,
    page_tokens: tl.tensor,
    out_tokens: tl.tensor,
    blocks: tl.tensor,
    table_stride: tl.tensor,
    out_stride: tl.tensor,
    angle_stride: tl.tensor,
    bits: tl.constexpr,
    turn: tl.constexpr,
    block_tokens: tl.constexpr,
    block_half: tl.constexpr,
) -> None:
    column_block = tl.program_id(0) % blocks
    head = tl.program_id(0) // blocks % heads
    layer = tl.program_id(0) // blocks // heads
    page = tl.load(table + layer * table_stride + column_block).to(tl.int64) * heads + head
    keys += page * page_tokens * (half * bits // 4)
    values += page * page_tokens * (half * bits // 4)
    value_ranges += page * 2 * page_tokens
    targets = out_table + layer * 2 * out_stride
    column = tl.arange(0, block_half)[None, :]
    wide = column < half
    ranges = key_ranges + page * 4 * half + column
    least_first = tl.load(ranges, mask=wide, other=0.0).to(tl.float32)
    least_second = tl.load(ranges + half, mask=wide, other=0.0).to(tl.float32)
    step_first = tl.load(ranges + 2 * half, mask=wide, other=0.0).to(tl.float32)
    step_second = tl.load(ranges + 3 * half, mask=wide, other=0.0).to(tl.float32)
    first_place = column_block * page_tokens
    filled = tl.minimum(page_tokens, tokens - first_place)
    for start in range(0, filled, block_tokens):
        token = start + tl.arange(0, block_tokens)[:, None]
        place = first_place + token
        real = token < filled
        inside = real & wide
        first, second = _codes(keys, token, column, half, inside, bits)
        first = first * step_first + least_first
        second = second * step_second + least_second
        if turn:
            first, second = turned(first, second, cosine, sine, place * angle_stride + column, inside)
        target = _target(out, targets, place, head, heads, out_tokens, half, real) + column
        tl.store(target, first.to(out.dtype.element_ty), mask=inside)
        tl.store(target + half, second.to(out.dtype.element_ty), mask=inside)
        first, second = _codes(values, token, column, half, inside, bits)
        least = tl.load(value_ranges + token, mask=real, other=0.0).to(tl.float32)
        step = tl.load(value_ranges + page_tokens + token, mask=real, other=0.0).to(tl.float32)
        target = _target(out, targets + out_stride, place, head, heads, out_tokens, half, real) + column
        tl.store(target, (first * step + least).to(out.dtype.element_ty), mask=inside)
        tl.store(target + half, (second * step + least).to(out.dtype.element_ty), mask=inside)


def dequant_rotate_gather(
    source: QuantisedPages,
    table: torch.Tensor,
    tokens: int,
    out: torch.Tensor,
    out_table: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    turn: bool,
) -> None:
    """See :func:`memos_kernels.load.dequant_rotate_gather`."""
    heads, head_dim = out.shape[1], out.shape[3]
    blocks = blocks_of(tokens, source.page_tokens)
    table, out_table = table.contiguous(), out_table.contiguous()
    launch(
        _load_pages,
        (len(table) * heads * blocks,),
        tile_of_halves(head_dim, bits=source.bits, turn=turn),
        *source[:4],
        table,
        out,
        out_table,
        cosine,
        sine,
        heads,
        tokens,
        head_dim // 2,
        source.page_tokens,
        out.shape[2],
        blocks,
        table.shape[1],
        out_table.shape[2],
        angle_stride(cosine),
    )
