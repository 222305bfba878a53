"""Quantising a cache into pages: keys by channel, values by token (KIVI, Liu et al., arXiv:2402.02750)."""

from __future__ import annotations

from typing import NamedTuple

import torch

from memos_kernels import checks
from memos_kernels.dispatch import run
from memos_kernels.rotate import check_angles

BITS = (8, 4)


class QuantisedPages(NamedTuple):
    """A pool of quantised pages, each with keys and values of ``P`` tokens of one layer.

    ``keys`` and ``values`` are uint8 ``[pages, heads, P, head_dim * bits / 8]``. With 4 bits, byte ``d`` holds element
    ``d`` in its low half and element ``d + head_dim / 2`` in its high half: the two that a rotation turns together.
    ``key_ranges`` is float16 ``[pages, heads, 2, head_dim]``, the least value and the step of each channel of a page,
    ``value_ranges`` float16 ``[pages, heads, 2, P]``, those of each token.
    """

    keys: torch.Tensor
    values: torch.Tensor
    key_ranges: torch.Tensor
    value_ranges: torch.Tensor
    bits: int

    @classmethod
    def empty(
        cls, pages: int, heads: int, page_tokens: int, head_dim: int, bits: int, device: str | torch.device = "cpu"
    ) -> QuantisedPages:
        """Return an uninitialised pool. Raises ``ValueError`` for bits other than 8 and 4, or an odd ``head_dim``."""
        if bits not in BITS or head_dim % 2:
            raise ValueError(f"{bits} bits of {head_dim} elements: 8 or 4 bits of an even number are needed")
        codes = (pages, heads, page_tokens, head_dim * bits // 8)
        return cls(
            torch.empty(codes, dtype=torch.uint8, device=device),
            torch.empty(codes, dtype=torch.uint8, device=device),
            torch.empty((pages, heads, 2, head_dim), dtype=torch.float16, device=device),
            torch.empty((pages, heads, 2, page_tokens), dtype=torch.float16, device=device),
            bits,
        )

    @property
    def page_tokens(self) -> int:
        """Tokens per page."""
        return int(self.keys.shape[2])

    @property
    def bytes(self) -> int:
        """The size of the pool in bytes, ranges included."""
        return sum(part.nbytes for part in (self.keys, self.values, self.key_ranges, self.value_ranges))


class ErrorStatistics(NamedTuple):
    """How far off the quantised cache is, float32 ``[L, 2]`` each: by layer, for keys and values."""

    largest: torch.Tensor
    mean_squared: torch.Tensor


def quantise_pages(
    cache: torch.Tensor,
    into: QuantisedPages,
    table: torch.Tensor,
    angles: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> ErrorStatistics:
    """Quantise a cache into pages, in place in ``into``. With ``n = 2 ** bits - 1``, over each group of elements::

        least = f16(min x),   step = f16((max x - min x) / n),   q = clamp(floor((x - least) / step + 1/2), 0, n)

    A group is one channel of a page's keys, turned by ``angles`` before, or one token's values in a head. Codes of a
    last page after the last token are 0. Where ``step`` is 0, ``q`` is.

    Args:
        cache: ``[L, 2, heads, T, head_dim]``, keys before values; float32, bfloat16 or float16; finite.
        into: the pool.
        table: int32 ``[L, blocks]``: the pages to write, none of them twice.
        angles: cosine and sine (:func:`memos_kernels.rotate.rotate_keys`) that turn the keys first, such as back to
            position 0; none: as they are.

    Returns:
        The errors ``x - (q step + least)``, of the turned keys.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, a table that names pages outside the pool, or values
            beyond the range of float16 (found while writing: the pages hold nonsense then).
    """
    checks.floating("the cache", cache)
    checks.shaped("the cache", cache, (None, 2, into.keys.shape[1], None, into.key_ranges.shape[3]))
    check_pool(into, table, len(cache), cache.shape[3])
    turn = angles or no_turn(cache)
    check_angles(*turn, cache.shape[3], cache.shape[4])
    checks.same_device(cache=cache, keys=into.keys, table=table, cosine=turn[0])
    statistics: ErrorStatistics = run(
        "quantise", "quantise_pages", cache, cache, into, table, *turn, angles is not None
    )
    if not bool(torch.isfinite(statistics.largest).all()):
        raise ValueError("the cache holds values too large to be quantised, or that are not numbers")
    return statistics


def check_pool(pool: QuantisedPages, table: torch.Tensor, layers: int, tokens: int) -> None:
    """Raise ``ValueError`` unless this is a pool and ``table`` names enough of its pages for ``layers`` layers."""
    pages, heads, size, width = pool.keys.shape
    if pool.bits not in BITS:
        raise ValueError(f"{pool.bits} bits; 8 or 4 are needed")
    head_dim = width * 8 // pool.bits
    checks.pages("values", pool.values, (pages, heads, size, width))
    checks.shaped("key_ranges", pool.key_ranges, (pages, heads, 2, head_dim))
    checks.shaped("value_ranges", pool.value_ranges, (pages, heads, 2, size))
    for name, part, dtype in (
        ("keys", pool.keys, torch.uint8),
        ("values", pool.values, torch.uint8),
        ("key_ranges", pool.key_ranges, torch.float16),
        ("value_ranges", pool.value_ranges, torch.float16),
    ):
        if part.dtype != dtype or not part.is_contiguous():
            raise ValueError(f"{name} must be {dtype} and contiguous")
        checks.same_device(table=table, **{name: part})
    if table.dim() != 2 or len(table) != layers:
        raise ValueError(f"the table has shape {list(table.shape)}; {layers} rows are needed")
    if tokens < 0:
        raise ValueError(f"{tokens} tokens")
    checks.page_table("the table", table, pages, checks.blocks_of(tokens, size))


def no_turn(cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cosine and sine of no rotation at all."""
    half = cache.shape[-1] // 2
    return torch.ones(1, half, device=cache.device), torch.zeros(1, half, device=cache.device)
