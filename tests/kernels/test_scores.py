"""How much attention tokens receive, against attention itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_kernels.attention.reference import paged_attention_prefill
from memos_kernels.scores import reference
from memos_kernels.workloads import Heads, Sequences, sequences

pytestmark = pytest.mark.sampled(3)
Check = Callable[[torch.Tensor, torch.Tensor], None]


class Shape(NamedTuple):
    """A window of rows over a sequence."""

    layout: Heads
    length: int
    rows: int
    causal: bool = True
    weighted: bool = False


SHAPES = [
    Shape(Heads(9, 3, 64, 16), 37, 5, causal=True),
    Shape(Heads(4, 4, 48, 7), 5, 5, causal=True, weighted=True),
    Shape(Heads(8, 1, 6, 1), 5, 9, causal=False),
    Shape(Heads(3, 1, 80, 64), 130, 1, causal=True, weighted=True),
    Shape(Heads(4, 4, 64, 64), 1, 1, causal=True),
    Shape(Heads(2, 1, 48, 7), 37, 37, causal=False, weighted=True),
    Shape(Heads(8, 1, 48, 7), 37, 37, causal=False, weighted=True),
    Shape(Heads(15, 5, 80, 64), 130, 1, causal=True, weighted=True),
    Shape(Heads(9, 3, 64, 16), 130, 130, causal=True, weighted=True),
    Shape(Heads(15, 5, 64, 7), 130, 33, causal=False),
    Shape(Heads(9, 3, 80, 1), 37, 16, causal=True),
    Shape(Heads(4, 4, 6, 16), 300, 64, causal=True),
    Shape(Heads(8, 1, 80, 64), 130, 70, causal=True, weighted=True),
    Shape(Heads(4, 2, 48, 16), 1100, 130, causal=True, weighted=True),
    Shape(Heads(71, 1, 6, 7), 513, 3, causal=False),
]


def made(shape: Shape, dtype: torch.dtype, **options: Any) -> Sequences:
    """Return the sequence of a shape, with not-a-number wherever there is no token."""
    return sequences([shape.length], [shape.rows], shape.layout, dtype, fill=float("nan"), **options)


def arguments(shape: Shape, made: Sequences) -> tuple[Any, ...]:
    """Return what every form's function is called with."""
    weights = made.log_weights if shape.weighted else None
    scaling = shape.layout.head_dim**-0.5
    return made.query, made.keys, made.table[0, 0], shape.length, scaling, shape.causal, weights


def score(form: Any, shape: Shape, made: Sequences) -> torch.Tensor:
    """Call a form."""
    result: torch.Tensor = form("scores", "token_scores", *arguments(shape, made))
    return result


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reference_is_attention_to_values_that_name_their_token(shape: Shape) -> None:
    length, page_tokens = shape.length, shape.layout.page_tokens
    given = made(shape, torch.float32)
    # Value t is the unit vector t, so attention returns its weights.
    names = torch.zeros(*given.keys.shape[:3], length)
    for t in range(length):
        names[int(given.table[0, 0, t // page_tokens]), :, t % page_tokens, t] = 1
    weights = given.log_weights if shape.weighted else None
    table, scaling = given.table[:, :1].expand(-1, 2, -1), shape.layout.head_dim**-0.5
    wide = torch.nn.functional.pad(given.keys, (0, length)), torch.nn.functional.pad(given.query, (0, length))
    seen, _ = paged_attention_prefill(
        wide[1], given.starts, wide[0], torch.nn.functional.pad(names, (shape.layout.head_dim, 0)), table,
        given.lengths, scaling, weights, shape.causal,
    )  # fmt: skip
    expected = seen[..., shape.layout.head_dim :].sum(0)
    torch.testing.assert_close(reference.token_scores(*arguments(shape, given)), expected, rtol=1e-5, atol=1e-5)


def test_scores_match_reference(form: Any, dtype: torch.dtype, shape: Shape, close: Check) -> None:
    given = made(shape, dtype)
    close(score(form, shape, given), reference.token_scores(*arguments(shape, given)))


def test_scores_of_a_head_add_up_to_the_rows(form: Any, shape: Shape) -> None:
    totals = score(form, shape, made(shape, torch.float32)).sum(-1)
    torch.testing.assert_close(totals, torch.full((shape.layout.heads,), float(shape.rows)), rtol=1e-5, atol=1e-5)


def test_scores_by_hand(form: Any, dtype: torch.dtype, close: Check) -> None:
    keys, query = torch.zeros(1, 1, 2, 6, dtype=dtype), torch.zeros(2, 1, 6, dtype=dtype)
    scores = form("scores", "token_scores", query, keys, torch.zeros(1, dtype=torch.int32), 2, 1.0, True, None)
    close(scores, torch.tensor([[1.5, 0.5]]))


def test_order_of_pages_does_not_matter(form: Any, dtype: torch.dtype, shape: Shape, same: Check) -> None:
    same(score(form, shape, made(shape, dtype, order=5)), score(form, shape, made(shape, dtype)))


def test_pages_of_any_size_agree(form: Any, dtype: torch.dtype, close: Check) -> None:
    shape = SHAPES[0]._replace(weighted=True)
    whole = shape._replace(layout=shape.layout._replace(page_tokens=37))
    close(score(form, shape, made(shape, dtype)), score(form, whole, made(whole, dtype)))


def test_arguments_keep_their_bits(form: Any, shape: Shape, same: Check, guarded: Any) -> None:
    given = made(shape, torch.float32)
    placed = Sequences(*map(guarded, given))
    score(form, shape, placed)
    for part, before in zip(placed, given, strict=True):
        same(part, before)


def test_large_scores_do_not_overflow(form: Any, dtype: torch.dtype) -> None:
    query, keys, table, length, _, causal, weights = arguments(SHAPES[0], made(SHAPES[0], dtype))
    large = query, keys, table, length, 50.0, causal, weights
    expected = reference.token_scores(*large)
    torch.testing.assert_close(form("scores", "token_scores", *large), expected, rtol=1e-3, atol=1e-3)


@settings(max_examples=settings().max_examples // 5)
@given(data=st.data())
def test_scores_of_any_shape(form: Any, dtype: torch.dtype, close: Check, data: st.DataObject) -> None:
    groups, kv_heads = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    layout = Heads(groups * kv_heads, kv_heads, data.draw(st.integers(1, 12)), data.draw(st.integers(1, 9)))
    causal, weighted = data.draw(st.booleans()), data.draw(st.booleans())
    length = data.draw(st.integers(1, 30))
    shape = Shape(layout, length, data.draw(st.integers(0, length if causal else 9)), causal, weighted)
    given = made(shape, dtype, seed=data.draw(st.integers(0, 99)), order=data.draw(st.integers(0, 99)))
    close(score(form, shape, given), reference.token_scores(*arguments(shape, given)))
