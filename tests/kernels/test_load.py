"""The load path: quantised pages to a cache in use, against a loop over tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_kernels import QuantisedPages, delta_angles
from memos_kernels.load import reference
from memos_kernels.workloads import random_tensor, shuffled_table

pytestmark = pytest.mark.sampled(3)
Check = Callable[[torch.Tensor, torch.Tensor], None]
NAN = float("nan")


class Shape(NamedTuple):
    """Quantised pages and pages to write; ``target_tokens`` of 0: one contiguous page for each matrix."""

    bits: int
    layers: int
    heads: int
    tokens: int
    head_dim: int
    page_tokens: int
    target_tokens: int
    turn: str = "each"


SHAPES = [
    Shape(8, 2, 1, 19, 64, 16, 0),
    Shape(4, 1, 4, 5, 48, 7, 16),
    Shape(4, 2, 1, 1, 6, 1, 1, "none"),
    Shape(8, 1, 3, 37, 80, 64, 16, "alike"),
    Shape(4, 1, 2, 21, 64, 16, 0, "alike"),
    Shape(8, 2, 1, 16, 6, 7, 16, "none"),
    Shape(8, 2, 3, 37, 64, 16, 0),
    Shape(8, 3, 5, 130, 80, 16, 64),
    # More than fits into a processor's caches, which is written past them.
    Shape(4, 30, 3, 200, 64, 64, 0),
    Shape(8, 100, 5, 400, 6, 7, 16),
    Shape(4, 2, 4, 130, 48, 16, 7, "alike"),
    Shape(8, 1, 8, 130, 48, 1, 64, "none"),
    Shape(4, 1, 3, 37, 80, 7, 1),
]


def source(shape: Shape, seed: int = 0, order: int = 0) -> tuple[QuantisedPages, torch.Tensor]:
    """Return random pages; ranges of slots without a token, and of pages not used, are not numbers."""
    blocks = -(-shape.tokens // shape.page_tokens)
    table = shuffled_table(shape.layers, blocks, order, spare=1)
    pages = QuantisedPages.empty(shape.layers * blocks + 1, shape.heads, shape.page_tokens, shape.head_dim, shape.bits)
    generator = torch.Generator().manual_seed(seed)
    rows = table.long()
    for part in pages[:2]:
        part.random_(0, 256, generator=generator)
        part[rows] = part.new_empty(part[rows].shape).random_(0, 256, generator=generator)
    for part, fill in zip(pages[2:4], (NAN, NAN), strict=True):
        part.fill_(fill)
        part[rows] = torch.randn(part[rows].shape, generator=generator).half() / 16
    used = (shape.tokens - 1) % shape.page_tokens + 1
    if blocks:
        pages.value_ranges[rows[:, -1], ..., used:] = NAN
    return pages, table


def target(shape: Shape, dtype: torch.dtype, order: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pages full of not-a-number, one too many, and which of them to write."""
    size = shape.target_tokens or max(shape.tokens, 1)
    blocks = -(-shape.tokens // size)
    table = shuffled_table(2 * shape.layers, blocks, order, spare=1).view(shape.layers, 2, blocks)
    return torch.full((2 * shape.layers * blocks + 1, shape.heads, size, shape.head_dim), NAN, dtype=dtype), table


def angles(shape: Shape) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Return cosine, sine, and whether keys are turned at all."""
    if shape.turn == "none":
        return torch.ones(1, shape.head_dim // 2), torch.zeros(1, shape.head_dim // 2), False
    frequencies = 10_000.0 ** (-torch.arange(0, shape.head_dim, 2) / shape.head_dim)
    old = torch.zeros(1) if shape.turn == "alike" else torch.arange(shape.tokens)
    return *delta_angles(old, torch.tensor([1234]), frequencies), True


def made(shape: Shape, dtype: torch.dtype, seed: int = 0, order: int = 0) -> tuple[Any, ...]:
    """Return what every form's function is called with."""
    return *source(shape, seed, order), shape.tokens, *target(shape, dtype, order), *angles(shape)


def load(form: Any, arguments: tuple[Any, ...]) -> torch.Tensor:
    """Call a form (or the reference) and return the target."""
    if form is None:
        reference.dequant_rotate_gather(*arguments)
    else:
        form("load", "dequant_rotate_gather", *arguments)
    out: torch.Tensor = arguments[3]
    return out


def spelled_out(arguments: tuple[Any, ...]) -> torch.Tensor:
    """Return the target in float64, computed token by token."""
    pages, table, tokens, out, out_table, cosine, sine, turn = arguments
    wide: torch.Tensor = out.double()
    size, target_size = pages.page_tokens, out.shape[2]
    for layer in range(len(table)):
        for t in range(tokens):
            page, slot = int(table[layer, t // size]), t % size
            for side in range(2):
                byte = pages[side][page, :, slot].int()
                codes = byte if pages.bits == 8 else torch.cat([byte & 15, byte >> 4], dim=-1)
                ranges = pages.key_ranges[page] if side == 0 else pages.value_ranges[page, :, :, slot, None]
                least, step = ranges.double().unbind(1)
                row = codes * step + least
                if turn and side == 0:
                    at = t if len(cosine) > 1 else 0
                    half = row.shape[-1] // 2
                    product = torch.complex(row[:, :half], row[:, half:]) * torch.complex(cosine[at], sine[at])
                    row = torch.cat([product.real, product.imag], dim=-1)
                wide[int(out_table[layer, side, t // target_size]), :, t % target_size] = row
    return wide


def check(actual: torch.Tensor, expected: torch.Tensor, close: Check) -> None:
    """Assert that the same slots were written, with the same values."""
    written = ~expected.isnan()
    assert torch.equal(~actual.isnan(), written)
    close(actual[written], expected[written])


def test_reference_is_the_loop_over_tokens(close: Check) -> None:
    for shape in SHAPES[:6]:
        arguments = made(shape, torch.float32)
        expected = spelled_out(arguments).float()
        check(load(None, arguments), expected, close)


def test_load_matches_reference_and_writes_nothing_else(
    form: Any, dtype: torch.dtype, shape: Shape, close: Check, guarded: Any
) -> None:
    pages, table, tokens, out, *rest = made(shape, dtype)
    actual = load(form, (pages, table, tokens, guarded(out), *rest))
    check(actual, load(None, made(shape, dtype)), close)


def test_order_of_pages_does_not_matter(form: Any, dtype: torch.dtype, shape: Shape, same: Check) -> None:
    first, second = (made(shape, dtype, order=order) for order in (0, 5))
    same(load(form, first)[first[4].long()], load(form, second)[second[4].long()])


def test_source_keeps_its_bits(form: Any, shape: Shape, same: Check, guarded: Any) -> None:
    pages, *rest = made(shape, torch.float32)
    placed = pages._replace(**{name: guarded(getattr(pages, name)) for name in pages._fields[:4]})
    load(form, (placed, *rest))
    for part, before in zip(placed[:4], pages[:4], strict=True):
        same(part, before)


def test_pages_of_any_size_agree(form: Any, dtype: torch.dtype, shape: Shape, same: Check) -> None:
    whole = shape._replace(target_tokens=0)
    dense, paged = made(whole, dtype), made(shape, dtype)
    contiguous, pool = load(form, dense)[dense[4][:, :, 0].long()], load(form, paged)[paged[4].long()]
    gathered = pool.transpose(2, 3).flatten(3, 4)[..., : shape.tokens, :]
    same(gathered, contiguous)


def test_unturned_then_turned_is_turned_within_a_step(form: Any, dtype: torch.dtype, shape: Shape) -> None:
    """A cache stored at position 0 and loaded at another is the one that was computed there."""
    frequencies = 10_000.0 ** (-torch.arange(0, shape.head_dim, 2) / shape.head_dim)
    old, new = torch.arange(shape.tokens) + 9, torch.arange(shape.tokens) + 700
    cache = random_tensor((shape.layers, 2, shape.heads, shape.tokens, shape.head_dim), dtype)
    pages, table = source(shape)
    to_zero, from_zero = (delta_angles(*move, frequencies) for move in ((old, torch.zeros(1)), (torch.zeros(1), new)))
    form("quantise", "quantise_pages", cache, pages, table, *to_zero, True)
    out, out_table = target(shape, dtype)
    load(form, (pages, table, shape.tokens, out, out_table, *from_zero, True))
    moved = cache[:, 0].float().flatten(0, 1).contiguous()
    form("rotate", "rotate_keys", moved, *delta_angles(old, new, frequencies), moved)
    step = float(pages.key_ranges[table.long()][:, :, :, 1].max())
    rounding = float(moved.abs().max()) * (torch.finfo(dtype).eps + torch.finfo(torch.float16).eps)
    loaded = out[out_table[:, 0].long()].transpose(1, 2).flatten(2, 3)[:, :, : shape.tokens]
    assert (loaded.flatten(0, 1).float() - moved).abs().max() <= step + rounding  # half of one in each of two elements


@settings(max_examples=settings().max_examples // 5)
@given(data=st.data())
def test_load_of_any_shape(form: Any, dtype: torch.dtype, close: Check, data: st.DataObject) -> None:
    small = st.integers(1, 2), st.integers(1, 2), st.integers(0, 12), st.integers(1, 9).map(lambda half: 2 * half)
    layers, heads, tokens, head_dim = (data.draw(size) for size in small)
    sizes = data.draw(st.integers(1, 9)), data.draw(st.integers(0, 9))
    turn, bits = data.draw(st.sampled_from(["each", "alike", "none"])), data.draw(st.sampled_from([8, 4]))
    shape = Shape(bits, layers, heads, tokens, head_dim, *sizes, turn)
    seed = data.draw(st.integers(0, 99))
    check(load(form, made(shape, dtype, seed, seed)), load(None, made(shape, dtype, seed, seed)), close)
