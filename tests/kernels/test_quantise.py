"""Quantising into pages: by hand, against the reference, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_kernels import ErrorStatistics, QuantisedPages, delta_angles, quantise_pages
from memos_kernels.quantise import reference
from memos_kernels.workloads import random_tensor, shuffled_table

pytestmark = pytest.mark.sampled(3)
Check = Callable[[torch.Tensor, torch.Tensor], None]
UNTOUCHED = 0x5A  # bits of what must not be written


class Shape(NamedTuple):
    """A cache and how it is quantised."""

    bits: int
    layers: int
    heads: int
    tokens: int
    head_dim: int
    page_tokens: int
    turned: bool = False


SHAPES = [
    Shape(8, 2, 1, 19, 64, 16),
    Shape(4, 1, 4, 5, 48, 7, turned=True),
    Shape(4, 2, 1, 1, 6, 1),
    Shape(8, 1, 3, 37, 80, 64, turned=True),
    Shape(4, 1, 2, 21, 64, 16),
    Shape(8, 2, 1, 16, 6, 7, turned=True),
    Shape(8, 2, 3, 37, 64, 16),
    Shape(8, 3, 5, 130, 80, 16),
    Shape(4, 2, 4, 130, 64, 64, turned=True),
    Shape(4, 30, 3, 37, 64, 16, turned=True),
    Shape(8, 1, 8, 130, 48, 1),
    Shape(4, 1, 3, 130, 80, 7),
]


def pool(shape: Shape) -> QuantisedPages:
    """Return a pool with one page too many, every bit of it known."""
    blocks = -(-shape.tokens // shape.page_tokens)
    empty = QuantisedPages.empty(shape.layers * blocks + 1, shape.heads, shape.page_tokens, shape.head_dim, shape.bits)
    for part in empty[:4]:
        part.view(torch.uint8).fill_(UNTOUCHED)
    return empty


def made(shape: Shape, dtype: torch.dtype, seed: int = 0, order: int = 0) -> tuple[Any, ...]:
    """Return what every form's function is called with. Channels and tokens differ in size."""
    size = (shape.layers, 2, shape.heads, shape.tokens, shape.head_dim)
    spread = random_tensor((shape.tokens, 1), seed=seed + 1) + random_tensor((shape.head_dim,), seed=seed + 2)
    cache = (random_tensor(size, seed=seed) * spread.exp()).to(dtype)
    blocks = -(-shape.tokens // shape.page_tokens)
    return cache, pool(shape), shuffled_table(shape.layers, blocks, order, spare=1), *turn(shape), shape.turned


def turn(shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the angles that take every token back to position 0."""
    frequencies = 10_000.0 ** (-torch.arange(0, shape.head_dim, 2) / shape.head_dim)
    return delta_angles(torch.arange(shape.tokens) + 100, torch.zeros(1), frequencies)


def quantise(form: Any, arguments: tuple[Any, ...]) -> tuple[QuantisedPages, ErrorStatistics]:
    """Call a form (or the reference), and return the pool and the statistics."""
    call = reference.quantise_pages if form is None else lambda *all: form("quantise", "quantise_pages", *all)
    statistics = call(*arguments)
    return arguments[1], statistics


def restored(pages: QuantisedPages, row: torch.Tensor, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``[2, heads, T, head_dim]`` of a layer, float64, and the step of every element."""
    size, half = pages.page_tokens, pages.key_ranges.shape[3] // 2
    values, steps = [], []
    for t in range(tokens):
        page, slot = int(row[t // size]), t % size
        for codes, ranges in (
            (pages.keys, pages.key_ranges[page]),
            (pages.values, pages.value_ranges[page, :, :, slot, None].expand(-1, -1, 2 * half)),
        ):
            byte = codes[page, :, slot].int()
            whole = byte if pages.bits == 8 else torch.cat([byte % 16, byte // 16], dim=-1)
            least, step = ranges.double().unbind(1)
            values.append(whole * step + least)
            steps.append(step)
    shape = (tokens, 2, *values[0].shape) if tokens else (0, 2, pages.keys.shape[1], 2 * half)
    stacked = (torch.stack(each).view(shape) if tokens else torch.zeros(shape) for each in (values, steps))
    first, second = (each.permute(1, 2, 0, 3) for each in stacked)
    return first, second


def wanted(cache: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Return the cache as it is quantised, keys turned, float64."""
    exact = cache.double().clone()
    if shape.turned:
        cosine, sine = (angle.double() for angle in turn(shape))
        first, second = cache[:, 0].double().chunk(2, dim=-1)
        exact[:, 0] = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return exact


def assert_alike(actual: QuantisedPages, expected: QuantisedPages) -> None:
    """Assert that pools agree up to float32 rounding: a float16 range, or a code, that fell the other way."""
    for have, want in zip(actual[2:4], expected[2:4], strict=True):
        bits = have.view(torch.int16).int() - want.view(torch.int16).int()
        assert bits.abs().max() <= 1
    for have, want in zip(actual[:2], expected[:2], strict=True):
        halves = [(have, want)] if actual.bits == 8 else [(have & 15, want & 15), (have >> 4, want >> 4)]
        for one, other in halves:
            off = (one.int() - other.int()).abs()
            assert off.max() <= 1
            assert off.float().mean() <= 2e-3 + 1 / off.numel()


def test_eight_bits_by_hand(form: Any, dtype: torch.dtype) -> None:
    cache = torch.tensor([[[[[0.0, 7], [255, 7]]], [[[-1.0, 254], [3, 3]]]]], dtype=torch.float32)
    cache[0, 1, 0, 0, 1] = 256 if dtype == torch.bfloat16 else 254
    pages, table = QuantisedPages.empty(1, 1, 2, 2, 8), torch.zeros(1, 1, dtype=torch.int32)
    angles = torch.ones(1, 1), torch.zeros(1, 1)
    largest, squared = form("quantise", "quantise_pages", cache.to(dtype), pages, table, *angles, False)
    assert pages.key_ranges.tolist() == [[[[0, 7], [1, 0]]]]
    assert pages.keys.tolist() == [[[[0, 0], [255, 0]]]]
    assert pages.values.tolist() == [[[[0, 255], [0, 0]]]]
    assert pages.value_ranges[0, 0, 0].tolist() == [-1, 3]
    assert pages.value_ranges[0, 0, 1, 1] == 0
    assert largest[0, 0] == 0
    assert squared[0, 0] == 0


def test_four_bits_are_packed_with_their_partner_by_hand(form: Any, dtype: torch.dtype) -> None:
    rows = torch.tensor([[0.0, 1, 2, 15], [15, 15, 15, 0]])
    cache = torch.stack([rows, rows]).view(1, 2, 1, 2, 4).to(dtype)
    pages, table = QuantisedPages.empty(1, 1, 2, 4, 4), torch.zeros(1, 1, dtype=torch.int32)
    form("quantise", "quantise_pages", cache, pages, table, torch.ones(1, 2), torch.zeros(1, 2), False)
    assert pages.values.tolist() == [[[[0 | 2 << 4, 1 | 15 << 4], [15 | 15 << 4, 15]]]]
    assert pages.keys.tolist() == [[[[0, 15 << 4], [15 | 15 << 4, 15]]]]
    assert pages.value_ranges.tolist() == [[[[0, 0], [1, 1]]]]


def test_pages_match_reference(form: Any, dtype: torch.dtype, shape: Shape) -> None:
    pages, statistics = quantise(form, made(shape, dtype))
    expected, true = quantise(None, made(shape, dtype))
    assert_alike(pages, expected)
    torch.testing.assert_close(statistics.largest, true.largest, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(statistics.mean_squared, true.mean_squared, rtol=1e-3, atol=1e-9)


def test_error_is_below_half_a_step_and_the_statistics_say_it(form: Any, dtype: torch.dtype, shape: Shape) -> None:
    arguments = made(shape, dtype)
    pages, statistics = quantise(form, arguments)
    exact = wanted(arguments[0], shape)
    for layer, row in enumerate(arguments[2]):
        back, step = restored(pages, row, shape.tokens)
        error = (exact[layer] - back).abs()
        # Half a step; and the ends of a range, rounded to float16, may lie inside of it.
        largest = step * (0.5 + (2**shape.bits - 1) * 2**-11) + back.abs().amax() * 2**-11 + 1e-5
        assert (error <= largest).all()
        torch.testing.assert_close(statistics.largest[layer].double(), error.flatten(1).amax(1), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            statistics.mean_squared[layer].double(), error.square().flatten(1).mean(1), rtol=1e-3, atol=1e-9
        )


def test_pages_not_named_keep_their_bits(form: Any, shape: Shape, guarded: Any) -> None:
    cache, pages, table, *rest = made(shape, torch.float32)
    placed = pages._replace(**{name: guarded(getattr(pages, name)) for name in pages._fields[:4]})
    form("quantise", "quantise_pages", cache, placed, table, *rest)
    named = set(table.flatten().tolist())
    (spare,) = set(range(len(pages.keys))) - named
    for part in placed[:4]:
        assert (part[spare].view(torch.uint8) == UNTOUCHED).all()


def test_slots_after_the_last_token_are_zero(form: Any, shape: Shape) -> None:
    pages, _ = quantise(form, arguments := made(shape, torch.float32))
    used = (shape.tokens - 1) % shape.page_tokens + 1
    last = arguments[2][:, -1].long()
    assert not pages.keys[last][:, :, used:].any()
    assert not pages.values[last][:, :, used:].any()
    assert not pages.value_ranges[last][..., used:].any()


def test_order_of_pages_does_not_matter(form: Any, dtype: torch.dtype, shape: Shape, same: Check) -> None:
    first, second = (made(shape, dtype, order=order) for order in (0, 5))
    (one, error), (other, again) = quantise(form, first), quantise(form, second)
    for part, counterpart in zip(one[:4], other[:4], strict=True):
        same(part[first[2].long()], counterpart[second[2].long()])
    same(error.largest, again.largest)
    same(error.mean_squared, again.mean_squared)


@settings(max_examples=settings().max_examples // 5)
@given(data=st.data())
def test_pages_of_any_shape(form: Any, dtype: torch.dtype, data: st.DataObject) -> None:
    sizes = st.integers(1, 2), st.integers(1, 2), st.integers(0, 12), st.integers(1, 9), st.integers(2, 9)
    layers, heads, tokens, half, page_tokens = (data.draw(size) for size in sizes)
    bits, turned = data.draw(st.sampled_from([8, 4])), data.draw(st.booleans())
    shape = Shape(bits, layers, heads, tokens, 2 * half, page_tokens, turned)
    seed = data.draw(st.integers(0, 99))
    pages, statistics = quantise(form, made(shape, dtype, seed, seed))
    expected, true = quantise(None, made(shape, dtype, seed, seed))
    assert_alike(pages, expected)
    torch.testing.assert_close(statistics.largest, true.largest, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e5, -1e5])
@pytest.mark.parametrize("place", [(0, 0, 0, 0, 0), (1, 1, 0, 8, 5), (0, 1, 0, 3, 3), (1, 0, 0, 8, 0)])
def test_value_beyond_float16_is_told_by_an_infinite_error(form: Any, value: float, place: tuple[int, ...]) -> None:
    arguments = made(Shape(8, 2, 1, 9, 6, 4), torch.float32)
    arguments[0][place] = value
    _, statistics = quantise(form, arguments)
    finite = torch.isfinite(statistics.largest)
    bad = place[:2]
    # A range from an ordinary least value up to 1e5 is still one of float16.
    assert value == 1e5 or not finite[bad]
    finite[bad] = True
    assert finite.all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e5])
def test_value_beyond_float16_is_refused(value: float) -> None:
    cache, pages, table, *_ = made(SHAPES[0], torch.float32)
    cache[1, 0, 0, 18, 5] = value
    with pytest.raises(ValueError, match="too large"):
        quantise_pages(cache, pages, table)


def test_size_in_bytes_is_that_of_all_parts() -> None:
    assert QuantisedPages.empty(3, 2, 16, 64, 4).bytes == 3 * 2 * (2 * 16 * 32 + 2 * 2 * (64 + 16))
