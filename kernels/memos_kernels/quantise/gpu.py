"""Quantisation in Triton: a program for each page and head, two passes over its keys and one over its values."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from memos_kernels.checks import blocks_of
from memos_kernels.quantise import ErrorStatistics, QuantisedPages
from memos_kernels.rotate.gpu import angle_stride, tile_of_halves, turned
from memos_kernels.triton_mode import launch


@triton.jit
def _read(
    rows: tl.tensor,
    token: tl.tensor,
    column: tl.tensor,
    half: tl.tensor,
    inside: tl.tensor,
    cosine: tl.tensor,
    sine: tl.tensor,
    angle_stride: tl.tensor,
    turn: tl.constexpr,
) -> tl.tensor:
    """Return both halves of rows as float32, turned if they are to be, 0 outside."""
    at = rows + token * half * 2 + column
    first = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(at + half, mask=inside, other=0.0).to(tl.float32)
    if turn:
        first, second = turned(first, second, cosine, sine, token * angle_stride + column, inside)
    return first, second


@triton.jit
def _range(least: tl.tensor, most: tl.tensor, bits: tl.constexpr) -> tl.tensor:
    """Return the least value and the step in float16, infinite beyond it.

    What is infinite is neither subtracted nor rounded: the interpreter would warn.
    """
    span = tl.where(most < float("inf"), most, 0.0) - tl.where(least > float("-inf"), least, 0.0)
    step = tl.div_rn(span, 2.0**bits - 1.0)
    least = tl.where(tl.abs(least) < 65520.0, least, float("inf"))
    return least.to(tl.float16), tl.where(step < 65520.0, step, float("inf")).to(tl.float16)


@triton.jit
def _code(x: tl.tensor, least: tl.tensor, step: tl.tensor, inside: tl.tensor, bits: tl.constexpr) -> tl.tensor:
    """Return codes and the magnitude of the errors, 0 outside; errors are infinite where something is not finite."""
    least = least.to(tl.float32)
    step = step.to(tl.float32)
    finite = inside & (least < float("inf")) & (step < float("inf")) & (tl.abs(x) < float("inf"))
    least = tl.where(finite, least, 0.0)
    step = tl.where(finite, step, 0.0)
    x = tl.where(finite, x, 0.0)
    scaled = tl.where(step > 0, tl.div_rn(x - least, tl.where(step > 0, step, 1.0)), 0.0)
    code = tl.minimum(tl.maximum(tl.floor(scaled + 0.5), 0.0), 2.0**bits - 1.0)
    error = tl.where(finite, tl.abs(x - (code * step + least)), float("inf"))
    return tl.where(inside, code, 0.0), tl.where(inside, error, 0.0)


@triton.jit
def _write(
    codes: tl.tensor,
    token: tl.tensor,
    column: tl.tensor,
    half: tl.tensor,
    first: tl.tensor,
    second: tl.tensor,
    mask: tl.tensor,
    bits: tl.constexpr,
) -> None:
    at = codes + token * (half * bits // 4) + column
    low = first.to(tl.uint8)
    high = second.to(tl.uint8)
    if bits == 8:
        tl.store(at, low, mask=mask)
        tl.store(at + half, high, mask=mask)
    else:
        tl.store(at, low | (high << 4), mask=mask)


@triton.jit
def _key_ranges(
    rows: tl.tensor,
    cosine: tl.tensor,
    sine: tl.tensor,
    filled: tl.tensor,
    half: tl.tensor,
    angle_stride: tl.tensor,
    bits: tl.constexpr,
    turn: tl.constexpr,
    block_tokens: tl.constexpr,
    block_half: tl.constexpr,
) -> tl.tensor:
    """Return least values and steps of the channels of both halves, each ``[1, block_half]``."""
    column = tl.arange(0, block_half)[None, :]
    least_first = tl.full([1, block_half], float("inf"), tl.float32)
    least_second = tl.full([1, block_half], float("inf"), tl.float32)
    most_first = tl.full([1, block_half], float("-inf"), tl.float32)
    most_second = tl.full([1, block_half], float("-inf"), tl.float32)
    for start in range(0, filled, block_tokens):
        token = start + tl.arange(0, block_tokens)[:, None]
        real = token < filled
        first, second = _read(rows, token, column, half, real & (column < half), cosine, sine, angle_stride, turn)
        least_first = tl.minimum(least_first, tl.min(tl.where(real, first, float("inf")), 0)[None, :])
        least_second = tl.minimum(least_second, tl.min(tl.where(real, second, float("inf")), 0)[None, :])
        most_first = tl.maximum(most_first, tl.max(tl.where(real, first, float("-inf")), 0)[None, :])
        most_second = tl.maximum(most_second, tl.max(tl.where(real, second, float("-inf")), 0)[None, :])
    least_first, step_first = _range(least_first, most_first, bits)
    least_second, step_second = _range(least_second, most_second, bits)
    return least_first, step_first, least_second, step_second


@triton.jit
def _quantise(
    cache: tl.tensor,
    cosine: tl.tensor,
    sine: tl.tensor,
    table: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    key_ranges: tl.tensor,
    value_ranges: tl.tensor,
    largest: tl.tensor,
    squared: tl.tensor,
    heads: tl.tensor,
    tokens: tl.tensor,
    half: tl.tensor,
    page_tokens: tl.tensor,
    blocks: tl.tensor,
    table_stride: tl.tensor,
    angle_stride: tl.tensor,
    bits: tl.constexpr,
    turn: tl.constexpr,
    block_tokens: tl.constexpr,
    block_half: tl.constexpr,
) -> None:
    block = tl.program_id(0) % blocks
    head = tl.program_id(0) // blocks % heads
    layer = tl.program_id(0) // blocks // heads
    page = tl.load(table + layer * table_stride + block).to(tl.int64) * heads + head
    begin = block * page_tokens
    filled = tl.minimum(page_tokens, tokens - begin)
    keys += page * page_tokens * (half * bits // 4)
    values += page * page_tokens * (half * bits // 4)
    key_ranges += page * half * 4
    value_ranges += page * page_tokens * 2
    cosine += begin * angle_stride
    sine += begin * angle_stride
    matrix = layer * 2 * heads + head
    key_rows = cache + (matrix.to(tl.int64) * tokens + begin) * half * 2
    value_rows = cache + ((matrix + heads).to(tl.int64) * tokens + begin) * half * 2

    column = tl.arange(0, block_half)[None, :]
    wide = column < half
    least_first, step_first, least_second, step_second = _key_ranges(
        key_rows, cosine, sine, filled, half, angle_stride, bits, turn, block_tokens, block_half
    )
    tl.store(key_ranges + column, least_first, mask=wide)
    tl.store(key_ranges + half + column, least_second, mask=wide)
    tl.store(key_ranges + 2 * half + column, step_first, mask=wide)
    tl.store(key_ranges + 3 * half + column, step_second, mask=wide)

    key_largest = tl.zeros([block_tokens], tl.float32)
    key_squared = tl.zeros([block_tokens], tl.float32)
    value_largest = tl.zeros([block_tokens], tl.float32)
    value_squared = tl.zeros([block_tokens], tl.float32)
    for start in range(0, page_tokens, block_tokens):
        token = start + tl.arange(0, block_tokens)[:, None]
        in_page = token < page_tokens
        inside = (token < filled) & wide
        first, second = _read(key_rows, token, column, half, inside, cosine, sine, angle_stride, turn)
        first, off_first = _code(first, least_first, step_first, inside, bits)
        second, off_second = _code(second, least_second, step_second, inside, bits)
        _write(keys, token, column, half, first, second, in_page & wide, bits)
        key_largest = tl.maximum(key_largest, tl.max(tl.maximum(off_first, off_second), 1))
        key_squared += tl.sum(off_first * off_first + off_second * off_second, 1)

        first, second = _read(value_rows, token, column, half, inside, cosine, sine, angle_stride, False)
        # Tokens that are not there read as 0, and get the range of 0 and 0.
        least = tl.min(tl.where(wide, tl.minimum(first, second), float("inf")), 1)[:, None]
        most = tl.max(tl.where(wide, tl.maximum(first, second), float("-inf")), 1)[:, None]
        least, step = _range(least, most, bits)
        tl.store(value_ranges + token, least, mask=in_page)
        tl.store(value_ranges + page_tokens + token, step, mask=in_page)
        first, off_first = _code(first, least, step, inside, bits)
        second, off_second = _code(second, least, step, inside, bits)
        _write(values, token, column, half, first, second, in_page & wide, bits)
        value_largest = tl.maximum(value_largest, tl.max(tl.maximum(off_first, off_second), 1))
        value_squared += tl.sum(off_first * off_first + off_second * off_second, 1)
    own = matrix * blocks + block
    tl.store(largest + own, tl.max(key_largest, 0))
    tl.store(squared + own, tl.sum(key_squared, 0))
    tl.store(largest + own + heads * blocks, tl.max(value_largest, 0))
    tl.store(squared + own + heads * blocks, tl.sum(value_squared, 0))


def quantise_pages(
    cache: torch.Tensor,
    into: QuantisedPages,
    table: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    turn: bool,
) -> ErrorStatistics:
    """See :func:`memos_kernels.quantise.quantise_pages`."""
    layers, _, heads, tokens, head_dim = cache.shape
    blocks = blocks_of(tokens, into.page_tokens)
    # Every program reports its own errors, so that their sum does not depend on who comes first.
    largest, squared = torch.zeros(2, layers, 2, max(heads * blocks, 1), device=cache.device)
    table = table.contiguous()
    launch(
        _quantise,
        (layers * heads * blocks,),
        tile_of_halves(head_dim, bits=into.bits, turn=turn),
        cache,
        cosine,
        sine,
        table,
        *into[:4],
        largest,
        squared,
        heads,
        tokens,
        head_dim // 2,
        into.page_tokens,
        blocks,
        table.shape[1],
        angle_stride(cosine),
    )
    return ErrorStatistics(largest.amax(-1), squared.sum(-1) / (heads * tokens * head_dim))
