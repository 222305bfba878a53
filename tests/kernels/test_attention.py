"""Attention over pages, against PyTorch's own and in parts against the whole."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from memos_kernels import combine_lse
from memos_kernels.attention import reference
from memos_kernels.workloads import Heads, Sequences, sequences

pytestmark = pytest.mark.sampled(3)
Check = Callable[[torch.Tensor, torch.Tensor], None]
Results = tuple[torch.Tensor, torch.Tensor]
NAN = float("nan")


class Shape(NamedTuple):
    """Sequences by their number of keys and rows, a layout, and what is done with them."""

    layout: Heads
    lengths: tuple[int, ...]
    rows: tuple[int, ...]
    causal: bool = True
    weighted: bool = False
    shared: bool = False


SHAPES = [
    Shape(Heads(9, 3, 64, 16), (37,), (5,), causal=True),
    Shape(Heads(4, 4, 48, 7), (5, 0, 16), (3, 2, 1), causal=False, weighted=True),
    Shape(Heads(8, 1, 6, 1), (1, 5), (1, 5), causal=True, shared=True),
    Shape(Heads(15, 5, 80, 64), (130,), (1,), causal=True, weighted=True),
    Shape(Heads(4, 4, 64, 64), (37, 64), (0, 37), causal=False),
    Shape(Heads(8, 1, 48, 7), (20, 3), (17, 3), causal=True, weighted=True, shared=True),
    Shape(Heads(9, 3, 64, 16), (130, 1, 37, 5), (130, 1, 5, 5), causal=True, weighted=True, shared=True),
    Shape(Heads(15, 5, 64, 7), (37, 130, 0, 1), (37, 1, 0, 4), causal=False, shared=True),
    Shape(Heads(9, 3, 80, 1), (37, 5), (1, 5), causal=True, weighted=True),
    Shape(Heads(4, 4, 6, 16), (130, 130), (37, 130), causal=True),
    Shape(Heads(8, 1, 80, 64), (5, 1, 130), (1, 1, 130), causal=False, weighted=True),
    Shape(Heads(4, 4, 48, 64), (0, 0), (2, 0), causal=False),
    Shape(Heads(15, 5, 48, 16), (300, 77), (70, 77), causal=True),
    Shape(Heads(4, 2, 64, 16), (1100, 5), (130, 5), causal=True, weighted=True),
    Shape(Heads(3, 1, 80, 7), (1024, 513, 512), (1, 513, 7), causal=True, shared=True),
    Shape(Heads(71, 1, 6, 64), (513, 1), (1, 3), causal=False, weighted=True),
]


def made(shape: Shape, dtype: torch.dtype, **options: Any) -> Sequences:
    """Return the sequences of a shape, with not-a-number wherever there is no token."""
    return sequences(shape.lengths, shape.rows, shape.layout, dtype, shared=shape.shared, **{"fill": NAN, **options})


def arguments(shape: Shape, made: Sequences) -> tuple[Any, ...]:
    """Return what every form's function is called with."""
    weights = made.log_weights if shape.weighted else None
    scaling = shape.layout.head_dim**-0.5
    return (*made[:-1], scaling, weights, shape.causal)


def attend(form: Any, shape: Shape, made: Sequences) -> Results:
    """Call a form."""
    result: Results = form("attention", "paged_attention_prefill", *arguments(shape, made))
    return result


def tokens(pool: torch.Tensor, pages: torch.Tensor, length: int) -> torch.Tensor:
    """Return ``[heads, length, ..]`` of a pool, token by token."""
    size = pool.shape[2]
    each = [pool[pages[t // size], :, t % size] for t in range(length)]
    return torch.stack(each, dim=1) if each else pool.new_zeros(pool.shape[1], 0, *pool.shape[3:])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reference_is_scaled_dot_product_attention(shape: Shape) -> None:
    given = made(shape, torch.float32)
    out, lse = reference.paged_attention_prefill(*arguments(shape, given))
    for b, (length, rows) in enumerate(zip(shape.lengths, shape.rows, strict=True)):
        first = int(given.starts[b])
        query = given.query[first : first + rows].transpose(0, 1).double()
        keys, values, weights = (
            tokens(pool, given.table[b, side], length)
            .double()
            .repeat_interleave(shape.layout.heads // pool.shape[1], 0)
            for side, pool in ((0, given.keys), (1, given.values), (0, given.log_weights))
        )
        seen = torch.ones(rows, length, dtype=torch.bool).tril(length - rows if shape.causal else length)
        bias = (weights if shape.weighted else torch.zeros_like(weights))[:, None].expand(-1, rows, -1)
        bias = bias.masked_fill(~seen, float("-inf"))
        scaling = shape.layout.head_dim**-0.5
        expected = scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=scaling)
        total = (query @ keys.transpose(1, 2) * scaling + bias).exp().sum(-1).log()
        part = slice(first, first + rows)
        expected = expected if length else torch.zeros_like(expected)
        torch.testing.assert_close(out[part].transpose(0, 1).double(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(lse[part].t().double(), total, rtol=1e-5, atol=1e-5)


def test_attention_by_hand(form: Any, dtype: torch.dtype, close: Check) -> None:
    keys = torch.tensor([[[[0.0, 0], [log(3), 0]]]], dtype=torch.float32).to(dtype)
    values = torch.tensor([[[[0.0, 4], [8, 0]]]], dtype=dtype)
    one, table = torch.tensor([[[1.0, 5]]], dtype=dtype), torch.zeros(1, 2, 1, dtype=torch.int32)
    bounds, length = torch.tensor([0, 1], dtype=torch.int32), torch.tensor([2], dtype=torch.int32)
    out, lse = form("attention", "paged_attention_prefill", one, bounds, keys, values, table, length, 1.0, None, True)
    torch.testing.assert_close(out.float(), torch.tensor([[[6.0, 1.0]]]), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(lse, torch.tensor([[log(4)]]), rtol=1e-2, atol=1e-2)
    close(lse, torch.tensor([[log(1 + torch.exp(keys[0, 0, 1, 0].float()).item())]]))


def test_prefill_matches_reference(form: Any, dtype: torch.dtype, shape: Shape, close: Check) -> None:
    given = made(shape, dtype)
    out, lse = attend(form, shape, given)
    expected = reference.paged_attention_prefill(*arguments(shape, given))
    close(out, expected[0])
    close(lse, expected[1])


def test_decode_matches_reference(form: Any, dtype: torch.dtype, shape: Shape, close: Check) -> None:
    shape = shape._replace(rows=(1,) * len(shape.lengths), causal=False)
    given = arguments(shape, made(shape, dtype))
    out, lse = form("attention", "paged_attention_decode", *given)
    expected = reference.paged_attention_decode(*given)
    close(out, expected[0])
    close(lse, expected[1])


@settings(max_examples=settings().max_examples // 5)
@given(data=st.data())
def test_attention_of_any_shape(form: Any, dtype: torch.dtype, close: Check, data: st.DataObject) -> None:
    groups, kv_heads = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    layout = Heads(groups * kv_heads, kv_heads, data.draw(st.integers(1, 12)), data.draw(st.integers(1, 9)))
    causal, weighted, shared = (data.draw(st.booleans()) for _ in range(3))
    lengths = data.draw(st.lists(st.integers(0, 20), max_size=3))
    rows = [data.draw(st.integers(0, length if causal else 5)) for length in lengths]
    shape = Shape(layout, tuple(lengths), tuple(rows), causal, weighted, shared)
    given = made(shape, dtype, seed=data.draw(st.integers(0, 99)), order=data.draw(st.integers(0, 99)))
    out, lse = attend(form, shape, given)
    expected = reference.paged_attention_prefill(*arguments(shape, given))
    close(out, expected[0])
    close(lse, expected[1])


def test_arguments_keep_their_bits(form: Any, shape: Shape, same: Check, guarded: Any) -> None:
    given = made(shape, torch.float32)
    placed = Sequences(*map(guarded, given))
    attend(form, shape, placed)
    for part, before in zip(placed, given, strict=True):
        same(part, before)


def test_order_of_pages_does_not_matter(form: Any, dtype: torch.dtype, shape: Shape, same: Check) -> None:
    first, second = (attend(form, shape, made(shape, dtype, order=order)) for order in (0, 5))
    for one, other in zip(first, second, strict=True):
        same(one, other)


def test_pages_of_any_size_agree(form: Any, dtype: torch.dtype, close: Check) -> None:
    shape = SHAPES[0]._replace(weighted=True)
    whole = shape._replace(layout=shape.layout._replace(page_tokens=37))
    paged, contiguous = (attend(form, each, made(each, dtype)) for each in (shape, whole))
    for one, other in zip(paged, contiguous, strict=True):
        close(one, other)


def test_neighbouring_pages_of_one_head_are_read_as_one(form: Any, dtype: torch.dtype, close: Check) -> None:
    """Runs of every length, repeated pages, runs that go on over a block: as the reference sees them."""
    random = torch.Generator().manual_seed(3)
    pool = torch.randn(400, 1, 1, 64, generator=random).to(dtype)
    places = [*range(30, 37), 5, 5, 6, *range(100, 260), *range(399, 380, -1), 398, 399, 0, 1, 2]
    table = torch.tensor([places, places[::-1]], dtype=torch.int32).expand(2, 2, -1).transpose(0, 1).contiguous()
    lengths = torch.tensor([len(places), len(places) - 3], dtype=torch.int32)
    query = torch.randn(2, 3, 64, generator=random).to(dtype)
    starts = torch.arange(3, dtype=torch.int32)
    given = (query, starts, pool, pool.flip(0).contiguous(), table, lengths, 0.125, None, False)
    for one, other in zip(
        form("attention", "paged_attention_decode", *given), reference.paged_attention_decode(*given), strict=True
    ):
        close(one, other)


@pytest.mark.parametrize("cuts", [(16,), (0, 16), (16, 32, 37)], ids=str)
def test_parts_joined_are_the_whole(form: Any, close: Check, cuts: tuple[int, ...]) -> None:
    shape = Shape(Heads(4, 4, 48, 16), (37,), (3,), causal=False, weighted=True)
    given = made(shape, torch.float32)
    parts = [
        attend(form, shape, given._replace(table=given.table[:, :, first // 16 :].contiguous(), lengths=length))
        for first, length in (
            (first, torch.tensor([last - first], dtype=torch.int32))
            for first, last in zip((0, *cuts), (*cuts, 37), strict=True)
        )
    ]
    for out, lse in parts:
        out[lse.isinf()] = NAN  # what a part without keys says must not matter
    out, lse = form("lse", "combine_lse", [out for out, _ in parts], [lse for _, lse in parts])
    expected = attend(form, shape, given)
    close(out, expected[0])
    close(lse, expected[1])


def test_causal_rows_are_joined_with_a_prefix_of_another_pool(close: Check) -> None:
    shape = Shape(Heads(9, 3, 64, 16), (48,), (16,), causal=True)
    given = made(shape, torch.float32)
    count = torch.tensor([32], dtype=torch.int32)
    prefix = reference.paged_attention_prefill(*arguments(shape._replace(causal=False), given._replace(lengths=count)))
    own = given._replace(table=given.table[:, :, 2:].contiguous(), lengths=count // 2)
    out, lse = combine_lse(*zip(prefix, reference.paged_attention_prefill(*arguments(shape, own)), strict=True))
    expected = reference.paged_attention_prefill(*arguments(shape, given))
    close(out, expected[0])
    close(lse, expected[1])


@pytest.mark.parametrize("times", [2, 5])
def test_weight_log_n_is_the_token_n_times(form: Any, close: Check, times: int) -> None:
    layout = Heads(4, 4, 6, 16)
    given = sequences([7], [1], layout)
    merged = given._replace(log_weights=torch.zeros_like(given.log_weights))
    page_of_keys, page_of_values = given.table[0, :, 0].tolist()
    merged.log_weights[page_of_keys, :, 6] = log(times)
    shape = Shape(layout, (7,), (1,), causal=False, weighted=True)
    out, lse = attend(form, shape, merged)
    for pool, page in ((given.keys, page_of_keys), (given.values, page_of_values)):
        pool[page, :, 7 : 6 + times] = pool[page, :, 6:7]
    spelled_out = given._replace(lengths=torch.tensor([6 + times], dtype=torch.int32))
    expected = attend(form, shape._replace(weighted=False), spelled_out)
    close(out, expected[0])
    close(lse, expected[1])


def test_large_scores_do_not_overflow(form: Any, dtype: torch.dtype, close: Check) -> None:
    given = arguments(SHAPES[0], made(SHAPES[0], dtype))
    large = (*given[:6], 50.0, *given[7:])
    out, lse = form("attention", "paged_attention_prefill", *large)
    expected = reference.paged_attention_prefill(*large)
    torch.testing.assert_close(out, expected[0], rtol=2e-2, atol=1e-3)
    close(lse, expected[1])


def test_one_row_alone_is_its_row_of_the_batch(form: Any, dtype: torch.dtype, close: Check) -> None:
    shape = Shape(Heads(9, 3, 64, 16), (37, 5, 16), (1, 1, 1), causal=True)
    given = made(shape, dtype)
    out, lse = attend(form, shape, given)
    for b in range(3):
        alone = Sequences(
            given.query[b : b + 1], given.starts[:2], given.keys, given.values, given.table[b : b + 1],
            given.lengths[b : b + 1], given.log_weights,
        )  # fmt: skip
        one, total = attend(form, shape, alone)
        close(one, out[b : b + 1])
        close(total, lse[b : b + 1])
