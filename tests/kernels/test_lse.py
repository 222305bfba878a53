"""Joining partial attentions, against sums of exponentials in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_kernels import combine_lse
from memos_kernels.lse import reference
from memos_kernels.workloads import random_tensor

Check = Callable[[torch.Tensor, torch.Tensor], None]
EMPTY, NAN = float("-inf"), float("nan")


class Shape(NamedTuple):
    """How many parts of which shape."""

    parts: int
    rows: int
    heads: int
    head_dim: int


SHAPES = [
    Shape(2, 5, 9, 64),
    Shape(1, 1, 1, 6),
    Shape(3, 7, 4, 80),
    Shape(5, 1, 15, 48),
    Shape(2, 37, 1, 6),
    Shape(8, 3, 4, 64),
    Shape(3, 130, 9, 64),
    Shape(17, 37, 8, 80),
]


def partial(shape: Shape, dtype: torch.dtype, seed: int = 0) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return parts of which a third are empty, their outputs not numbers; row 0 has none at all."""
    outputs = [random_tensor(shape[1:], dtype, 100 * seed + part) for part in range(shape.parts)]
    lses = [20 * random_tensor(shape[1:3], seed=1000 + 100 * seed + part) for part in range(shape.parts)]
    for part, (output, lse) in enumerate(zip(outputs, lses, strict=True)):
        empty = random_tensor(shape[1:3], seed=2000 + 100 * seed + part) < -0.4
        empty[:1] = True
        lse[empty] = EMPTY
        output[empty] = NAN
    return outputs, lses


def joined(outputs: list[torch.Tensor], lses: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the merge in float64, of weights that are computed without any shift."""
    weights = torch.stack(lses).double().exp()
    total = weights.sum(0)
    parts = torch.stack(outputs).double().nan_to_num(0.0) * weights.unsqueeze(-1)
    return (parts.sum(0) / total.unsqueeze(-1)).nan_to_num(0.0), total.log()


def test_reference_joins_as_float64_does() -> None:
    outputs, lses = partial(Shape(4, 7, 3, 8), torch.float32)
    out, lse = reference.combine_lse(outputs, lses)
    expected, total = joined(outputs, lses)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(lse.double(), total, rtol=1e-6, atol=1e-6)


def test_two_parts_by_hand(form: Any, dtype: torch.dtype, close: Check) -> None:
    outputs = [torch.tensor([[1.0, 2]], dtype=dtype), torch.tensor([[5.0, 6]], dtype=dtype)]
    out, lse = form("lse", "combine_lse", outputs, [torch.tensor([0.0]), torch.tensor([3.0]).log()])
    close(out, torch.tensor([[4.0, 5.0]], dtype=dtype))
    assert lse.item() == pytest.approx(1.3862944)


def test_no_part_with_keys_is_zero_and_minus_infinity(form: Any, dtype: torch.dtype) -> None:
    outputs = [torch.full((2, 3, 6), NAN, dtype=dtype)] * 2
    out, lse = form("lse", "combine_lse", outputs, [torch.full((2, 3), EMPTY)] * 2)
    assert (out == 0).all()
    assert (lse == EMPTY).all()


def test_merge_matches_reference(form: Any, dtype: torch.dtype, shape: Shape, close: Check) -> None:
    outputs, lses = partial(shape, dtype)
    out, lse = form("lse", "combine_lse", outputs, lses)
    expected = reference.combine_lse(outputs, lses)
    close(out, expected[0])
    close(lse, expected[1])


def test_merge_of_one_part_is_that_part(form: Any, dtype: torch.dtype, same: Check) -> None:
    outputs, lses = [random_tensor((5, 3, 48), dtype)], [random_tensor((5, 3))]
    out, lse = form("lse", "combine_lse", outputs, lses)
    same(out, outputs[0])
    same(lse, lses[0])


@pytest.mark.parametrize("level", [-1e4, 1e4])
def test_merge_of_far_off_sums_does_not_overflow(form: Any, close: Check, level: float) -> None:
    outputs, lses = partial(Shape(3, 5, 2, 6), torch.float32)
    out, lse = form("lse", "combine_lse", outputs, [part + level for part in lses])
    expected = reference.combine_lse(outputs, lses)
    torch.testing.assert_close(out, expected[0], rtol=1e-2, atol=1e-2)  # the sums themselves are that coarse
    close(lse, expected[1] + level)


def test_arguments_keep_their_bits(form: Any, same: Check) -> None:
    outputs, lses = partial(SHAPES[0], torch.float32)
    before = [part.clone() for part in outputs + lses]
    form("lse", "combine_lse", outputs, lses)
    for part, copy in zip(outputs + lses, before, strict=True):
        same(part, copy)


def test_any_leading_shape_is_taken(close: Check) -> None:
    outputs, lses = partial(SHAPES[2], torch.float32)
    flat, _ = combine_lse([part.flatten(0, 1) for part in outputs], [part.flatten() for part in lses])
    deep, _ = combine_lse([part[None, :, None] for part in outputs], [part[None, :, None] for part in lses])
    close(deep.flatten(), flat.flatten())


@settings(max_examples=settings().max_examples // 5)
@given(data=st.data())
def test_merge_of_any_shape(form: Any, dtype: torch.dtype, close: Check, data: st.DataObject) -> None:
    sizes = st.integers(1, 6), st.integers(0, 9), st.integers(1, 3), st.integers(1, 20)
    outputs, lses = partial(Shape(*(data.draw(size) for size in sizes)), dtype, data.draw(st.integers(0, 99)))
    out, lse = form("lse", "combine_lse", outputs, lses)
    expected = reference.combine_lse(outputs, lses)
    close(out, expected[0])
    close(lse, expected[1])
