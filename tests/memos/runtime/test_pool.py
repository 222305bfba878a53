"""The page pool: how models of all widths are cut, and pages that are taken, shared and given back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from memos.activation.kv import KVShape
from memos.runtime.pool import PAGE_TOKENS, PagePool, PageShape

CPU = torch.device("cpu")


def pool_of(pages: int = 8) -> PagePool:
    return PagePool(PageShape.of(KVShape(2, 2, 4, "float32"), [16, 24]), pages, CPU)


@pytest.mark.parametrize(
    ("heads", "head_dim", "widths", "width", "slots"),
    [
        (3, 64, [576, 192, 1536], 192, 16),  # SmolLM2 135M: three query heads for a key head
        (2, 64, [896, 128, 4864], 128, 16),  # Qwen2.5 0.5B: seven
        (8, 128, [1024, 2048, 3072], 1024, 16),  # Qwen3 0.6B: the queries are wider than the hidden state
        (8, 128, [4096, 1024, 14336], 1024, 16),  # Llama 3 8B
        (2, 8, [32, 16, 48], 16, 16),
        (1, 64, [96, 160, 64], 32, 32),  # narrower than a key
        (1, 8, [20, 12], 4, 32),
        (4, 8, [32, 32, 100], 4, 128),
        (1, 7, [3], 1, 112),
    ],
)
def test_slot_divides_every_row(heads: int, head_dim: int, widths: list[int], width: int, slots: int) -> None:
    shape = PageShape.of(KVShape(5, heads, head_dim, "bfloat16"), widths)
    assert (shape.width, shape.slots) == (width, slots)
    assert all(row % shape.width == 0 for row in [*widths, heads * head_dim])
    assert shape.bytes == PAGE_TOKENS * heads * head_dim * 2
    assert shape.slots * shape.width == PAGE_TOKENS * heads * head_dim


def test_pages_of_a_cache_are_whole_blocks_of_all_layers() -> None:
    shape = PageShape.of(KVShape(5, 2, 8, "float32"), [32])
    assert shape.block_pages == 10
    assert [shape.kv_pages(tokens) for tokens in (0, 1, 16, 17, 160)] == [0, 10, 10, 20, 100]
    assert shape.kv_pages(160) * shape.bytes == shape.kv.bytes(160)


def test_adapters_and_attention_see_the_same_memory() -> None:
    pool = pool_of()
    assert pool.kv.shape == (8, 2, PAGE_TOKENS, 4)
    assert pool.slots.shape == (8 * pool.shape.slots, pool.shape.width)
    pool.kv[3] = 7.0
    assert pool.slots.view(8, -1)[3].eq(7.0).all()
    assert pool.slots.sum() == 7.0 * pool.kv[3].numel()


def test_pages_are_taken_once_each_until_none_is_left() -> None:
    pool = pool_of(8)
    first, second = pool.take(5), pool.take(3)
    assert sorted([*first, *second]) == list(range(8))
    assert pool.free == 0
    assert pool.take(0).size == 0
    with pytest.raises(MemoryError, match="1 pages are needed and 0 are free"):
        pool.take(1)
    pool.give_back(first)
    assert sorted(pool.take(5)) == sorted(first)


def test_more_than_there_is_takes_nothing() -> None:
    pool = pool_of(8)
    with pytest.raises(MemoryError):
        pool.take(9)
    assert pool.free == 8


def test_shared_pages_are_free_with_their_last_user() -> None:
    pool = pool_of(8)
    pages = pool.take(4).reshape(2, 2, 1)
    pool.share(pages)
    pool.share(pages[:, :, 0])
    pool.give_back(pages)
    pool.give_back(pages)
    assert pool.free == 4
    pool.give_back(pages)
    assert pool.free == 8


def test_part_of_shared_pages_comes_back_alone() -> None:
    pool = pool_of(8)
    pages = pool.take(4)
    pool.share(pages[:1])
    pool.give_back(pages)
    assert pool.free == 7
    assert pages[0] not in pool.take(7)


def test_pages_given_back_twice_are_refused_and_counted_once() -> None:
    pool = pool_of(8)
    pages, other = pool.take(2), pool.take(2)
    pool.give_back(pages)
    with pytest.raises(ValueError, match="nobody had taken"):
        pool.give_back(pages)
    with pytest.raises(ValueError, match="nobody had taken"):
        pool.give_back(np.concatenate([other, pages]))
    assert pool.free == 6
    pool.give_back(other)
    assert pool.free == 8
