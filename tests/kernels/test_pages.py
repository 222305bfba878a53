"""Copying between pages and contiguous memory, against a loop over tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_kernels import gather_pages, scatter_pages
from memos_kernels.workloads import paged, shuffled_table

Same = Callable[[torch.Tensor, torch.Tensor], None]


class Shape(NamedTuple):
    """What is copied; ``pools`` is how many pools the matrices live in."""

    dtype: torch.dtype
    matrices: int
    pools: int
    heads: int
    tokens: int
    head_dim: int
    page_tokens: int


SHAPES = [
    Shape(torch.float32, 2, 1, 3, 37, 64, 16),
    Shape(torch.uint8, 3, 3, 1, 5, 6, 1),
    Shape(torch.float16, 1, 1, 3, 130, 48, 64),
    Shape(torch.int16, 2, 2, 4, 1, 80, 7),
    Shape(torch.float16, 4, 1, 1, 37, 6, 7),
    Shape(torch.float32, 2, 2, 3, 16, 48, 16),
    Shape(torch.bfloat16, 2, 1, 3, 130, 64, 16),
    Shape(torch.bfloat16, 5, 5, 4, 37, 80, 1),
    Shape(torch.bfloat16, 1, 1, 1, 1, 6, 64),
    Shape(torch.uint8, 60, 1, 3, 130, 32, 7),
    Shape(torch.int64, 2, 1, 5, 5, 6, 7),
    Shape(torch.float32, 2, 1, 8, 64, 64, 64),
    # More than fits into a processor's caches, which is written past them.
    Shape(torch.bfloat16, 60, 1, 3, 200, 64, 16),
    Shape(torch.uint8, 500, 1, 5, 300, 6, 7),
]


def content(shape: Shape, seed: int = 0) -> torch.Tensor:
    """Return random bytes, as ``[matrices, heads, T, head_dim]``: all values there are, those not numbers too."""
    wide = shape.head_dim * shape.dtype.itemsize
    generator = torch.Generator().manual_seed(seed)
    size = (shape.matrices, shape.heads, shape.tokens, wide)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator).view(shape.dtype)


def scattered(shape: Shape, dense: torch.Tensor, order: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return the pools of all matrices, the same one for all of them or one each, and the table."""
    if shape.pools == 1:
        pool, table = paged(dense, shape.page_tokens, order=order, fill=1)
        return [pool] * shape.matrices, table
    each = [paged(one.unsqueeze(0), shape.page_tokens, order=order, spare=2, fill=1) for one in dense]
    return [pool for pool, _ in each], each[0][1].expand(shape.matrices, -1)


@pytest.mark.parametrize("pools", ["one", "each"])
def test_gather_by_hand(pools: str) -> None:
    pool = torch.arange(2 * 1 * 2 * 2).view(2, 1, 2, 2)
    table = torch.tensor([[1, 0]], dtype=torch.int32)
    out = torch.empty(2, 1, 3, 2, dtype=torch.int64)
    assert gather_pages(pool if pools == "one" else [pool, pool + 10], table, out) is out
    first = [[4, 5], [6, 7], [0, 1]]
    second = [[cell + (10 if pools == "each" else 0) for cell in row] for row in first]
    assert out.tolist() == [[first], [second]]


def test_scatter_by_hand() -> None:
    pool = torch.zeros(2, 1, 2, 2)
    scatter_pages(torch.tensor([[[[1.0, 2], [3, 4], [5, 6]]]]), pool, torch.tensor([[1, 0]], dtype=torch.int32))
    assert pool.flatten().tolist() == [5, 6, 0, 0, 1, 2, 3, 4]


def test_gather_returns_every_token(form: Any, shape: Shape, same: Same, guarded: Any) -> None:
    dense = content(shape)
    for order in (0, 1):
        pools, table = scattered(shape, dense, order)
        out = guarded(torch.zeros_like(dense))
        form("pages", "gather_pages", pools, table, out)
        same(out, dense)


def test_scatter_writes_every_token_and_nothing_else(form: Any, shape: Shape, same: Same, guarded: Any) -> None:
    dense = content(shape)
    expected, table = scattered(shape, dense, 2)
    blank, _ = scattered(shape, torch.ones_like(dense), 2)
    pools = [guarded(pool) for pool in blank[: shape.pools]]
    form("pages", "scatter_pages", dense, pools * (shape.matrices // shape.pools), table)
    for pool, wanted in zip(pools, expected, strict=False):
        same(pool, wanted)


@settings(max_examples=settings().max_examples // 5)
@given(data=st.data())
def test_copy_of_any_shape_goes_there_and_back(form: Any, same: Same, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([torch.uint8, torch.int16, torch.float16, torch.float32]))
    sizes = st.integers(1, 3), st.integers(1, 2), st.integers(0, 12), st.integers(1, 9), st.integers(1, 9)
    matrices, heads, tokens, head_dim, page_tokens = (data.draw(size) for size in sizes)
    one = data.draw(st.booleans())
    shape = Shape(dtype, matrices, 1 if one else matrices, heads, tokens, head_dim, page_tokens)
    dense = content(shape, data.draw(st.integers(0, 99)))
    pools, table = scattered(shape, torch.ones_like(dense), data.draw(st.integers(0, 99)))
    form("pages", "scatter_pages", dense, pools, table)
    out = torch.zeros_like(dense)
    form("pages", "gather_pages", pools, table, out)
    same(out, dense)


def test_table_entries_after_the_last_block_are_not_used(form: Any, same: Same) -> None:
    pool = torch.randn(4, 2, 4, 6)
    table = shuffled_table(2, 2)
    long = torch.cat([table, torch.full((2, 3), 2**30, dtype=torch.int32)], dim=1)
    short_out, long_out = torch.empty(2, 2, 8, 6), torch.empty(2, 2, 8, 6)
    form("pages", "gather_pages", [pool] * 2, table, short_out)
    form("pages", "gather_pages", [pool] * 2, long, long_out)
    same(long_out, short_out)
