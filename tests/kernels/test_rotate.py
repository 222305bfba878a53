"""Rotary embedding undone and done again, against multiplication of complex numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_kernels import delta_angles, rotate_keys
from memos_kernels.rotate import reference
from memos_kernels.workloads import random_tensor

Check = Callable[[torch.Tensor, torch.Tensor], None]


class Shape(NamedTuple):
    """``alike``: one angle for all tokens."""

    matrices: int
    tokens: int
    head_dim: int
    alike: bool


SHAPES = [
    Shape(3, 37, 64, False),
    Shape(1, 1, 6, False),
    Shape(4, 5, 80, True),
    Shape(2, 130, 48, False),
    Shape(1, 37, 6, True),
    Shape(5, 7, 64, True),
    Shape(90, 130, 64, False),
    Shape(15, 37, 80, False),
    Shape(9, 1, 48, True),
]


def frequencies(head_dim: int) -> torch.Tensor:
    """Return those of Llama, base 10,000."""
    return 10_000.0 ** (-torch.arange(0, head_dim, 2).double() / head_dim)


def angles(shape: Shape, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosine and sine of random moves."""
    generator = torch.Generator().manual_seed(seed)
    old, new = torch.randint(0, 9000, (2, 1 if shape.alike else shape.tokens), generator=generator)
    return delta_angles(old, new, frequencies(shape.head_dim))


def turned(keys: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Return ``[M, T, D]`` turned by ``[T, D/2]``, in float64: halves are real and imaginary parts."""
    half = keys.shape[-1] // 2
    product = torch.complex(keys[..., :half].double(), keys[..., half:].double()) * torch.polar(
        torch.ones_like(angle), angle
    )
    return torch.cat([product.real, product.imag], dim=-1)


def test_reference_is_complex_multiplication() -> None:
    keys, angle = random_tensor((3, 5, 8)), torch.randn(5, 4).double()
    out = torch.empty_like(keys)
    reference.rotate_keys(keys, angle.cos().float(), angle.sin().float(), out)
    torch.testing.assert_close(out.double(), turned(keys, angle), rtol=1e-6, atol=1e-6)


def test_quarter_turn_by_hand(form: Any) -> None:
    out = torch.empty(1, 1, 4)
    form("rotate", "rotate_keys", torch.tensor([[[1.0, 2, 3, 4]]]), torch.zeros(1, 2), torch.ones(1, 2), out)
    assert out.tolist() == [[[-3, -4, 1, 2]]]


@pytest.mark.parametrize("start", [0, 1_000_000])
def test_delta_moves_keys_as_if_computed_at_the_new_position(start: int) -> None:
    keys, old = random_tensor((2, 9, 64)), torch.arange(start, start + 9)
    new = old + torch.arange(9) * 1000 - 500
    at_old, at_new = (turned(keys, positions[:, None] * frequencies(64)) for positions in (old, new))
    moved = rotate_keys(at_old.float(), *delta_angles(old, new, frequencies(64)))
    torch.testing.assert_close(moved.double(), at_new, rtol=1e-5, atol=1e-5)


def test_rotation_matches_reference(form: Any, dtype: torch.dtype, shape: Shape, close: Check, guarded: Any) -> None:
    keys = random_tensor((shape.matrices, shape.tokens, shape.head_dim), dtype)
    expected, out = torch.empty_like(keys), guarded(torch.zeros_like(keys))
    reference.rotate_keys(keys, *angles(shape), expected)
    form("rotate", "rotate_keys", keys, *angles(shape), out)
    close(out, expected)


def test_rotation_in_place_is_the_same(form: Any, dtype: torch.dtype, shape: Shape, same: Check, guarded: Any) -> None:
    keys = guarded(random_tensor((shape.matrices, shape.tokens, shape.head_dim), dtype))
    out = torch.empty_like(keys)
    form("rotate", "rotate_keys", keys, *angles(shape), out)
    form("rotate", "rotate_keys", keys, *angles(shape), keys)
    same(keys, out)


def test_rotation_and_its_reverse_change_nothing_but_rounding(form: Any, dtype: torch.dtype) -> None:
    keys, (cosine, sine) = random_tensor((3, 37, 64), dtype), angles(SHAPES[0])
    there, back = torch.empty_like(keys), torch.empty_like(keys)
    form("rotate", "rotate_keys", keys, cosine, sine, there)
    form("rotate", "rotate_keys", there, cosine, -sine, back)
    step = torch.finfo(dtype).eps
    # One rounding of each half on the way there, and one of the result.
    length = torch.linalg.vector_norm(torch.stack(keys.float().chunk(2, dim=-1)), dim=0).repeat(1, 1, 2)
    assert ((back.float() - keys.float()).abs() <= 2 * step * length + 1e-6).all()


@settings(max_examples=settings().max_examples // 5)
@given(data=st.data())
def test_rotation_of_any_shape(form: Any, dtype: torch.dtype, close: Check, data: st.DataObject) -> None:
    matrices, tokens, half = (data.draw(size) for size in (st.integers(0, 5), st.integers(0, 20), st.integers(0, 12)))
    shape = Shape(matrices, tokens, 2 * half, data.draw(st.booleans()))
    seed = data.draw(st.integers(0, 99))
    keys = random_tensor((shape.matrices, shape.tokens, shape.head_dim), dtype, seed)
    expected, out = torch.empty_like(keys), torch.zeros_like(keys)
    reference.rotate_keys(keys, *angles(shape, seed), expected)
    form("rotate", "rotate_keys", keys, *angles(shape, seed), out)
    close(out, expected)
