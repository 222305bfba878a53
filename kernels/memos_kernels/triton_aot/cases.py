"""What there is to compile: the launches of every operation, for the sizes that its tiles differ in.

Kernels come in every tile with the options that add code (rotation, weights), and the smallest tile without them too.
Where the dtype of the arguments changes what is multiplied, every tile comes in every dtype; where it only changes how
they are read and written, in bfloat16, and the smallest in the other two.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from memos_kernels.attention import gpu as attention
from memos_kernels.load import gpu as load
from memos_kernels.lora import RankRows, plan_lora
from memos_kernels.lora import gpu as lora
from memos_kernels.lse import gpu as lse
from memos_kernels.pages import gpu as pages
from memos_kernels.quantise import BITS, QuantisedPages
from memos_kernels.quantise import gpu as quantise
from memos_kernels.rotate import gpu as rotate
from memos_kernels.scores import gpu as scores
from memos_kernels.triton_mode import Launch, recorded

#: What models run in comes first.
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
#: The head sizes that tiles are padded to; other sizes up to the last take the same kernels.
HEAD_DIMS = (64, 128, 256)


class Case(NamedTuple):
    """Sizes of a launch. ``many`` is every other size: 16, which Triton knows it can divide by, or 1, a constant."""

    dtype: torch.dtype
    head_dim: int = HEAD_DIMS[0]
    many: int = 16
    plain: bool = False

    def tensor(self, *shape: int) -> torch.Tensor:
        """Return a tensor of the case's dtype; what it holds is not looked at."""
        return torch.empty(shape, dtype=self.dtype)

    @property
    def bits(self) -> tuple[int, ...]:
        """Bits of quantised pages."""
        return BITS if self.dtype == DTYPES[0] and not self.plain else BITS[:1]

    @property
    def pool(self) -> torch.Tensor:
        """A pool of pages."""
        return self.tensor(2, self.many, self.many, self.head_dim)

    @property
    def angles(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Angles for all tokens."""
        shape = (self.many, self.head_dim // 2)
        return torch.empty(shape), torch.empty(shape)

    @property
    def weights(self) -> torch.Tensor | None:
        """Weights of the pool's keys, or none."""
        return None if self.plain else torch.empty(2, self.many, self.many)


def _pages(case: Case) -> None:
    # Bytes in rows of these sizes are moved as integers of 8, 4, 2 and 1 bytes.
    for row in (64, 4, 2, 1):
        dense = torch.empty(case.many, case.many, case.many, row, dtype=torch.uint8)
        pools, table = [torch.empty(2, *dense.shape[1:], dtype=torch.uint8)] * case.many, _ints(case.many, 16)
        pages.gather_pages(pools, table, dense)
        pages.scatter_pages(dense, pools, table)


def _load(case: Case) -> None:
    for bits in case.bits:
        source = QuantisedPages.empty(2, case.many, case.many, case.head_dim, bits)
        tables = _ints(1, 16), _ints(1, 2, 16)
        load.dequant_rotate_gather(
            source, tables[0], case.many, case.pool, tables[1], *case.angles, turn=not case.plain
        )


def _quantise(case: Case) -> None:
    cache = case.tensor(1, 2, case.many, case.many, case.head_dim)
    for bits in case.bits:
        into = QuantisedPages.empty(2, case.many, case.many, case.head_dim, bits)
        quantise.quantise_pages(cache, into, _ints(1, 16), *case.angles, turn=not case.plain)


def _rotate(case: Case) -> None:
    keys = case.tensor(case.many, case.many, case.head_dim)
    rotate.rotate_keys(keys, *case.angles, keys)


def _attention(case: Case) -> None:
    query = case.tensor(case.many, case.many, case.head_dim)
    for attend in (attention.paged_attention_decode, attention.paged_attention_prefill):
        attend(query, _ints(17), case.pool, case.pool, _ints(16, 2, 16), _ints(16), 0.125, case.weights, causal=True)


def _lse(case: Case) -> None:
    out, sums = case.tensor(case.many, case.head_dim), torch.empty(case.many)
    lse.combine_lse([out] * 16, [sums] * 16)
    lse.combine_stacked(torch.empty(16, *out.shape), torch.empty(16, *sums.shape), out, sums)


def _lora(case: Case) -> None:
    starts = torch.tensor([0, 16], dtype=torch.int32)
    plan = plan_lora([[(0, 1.0)]] * case.many, starts)
    rows = RankRows(_ints(16, case.many), starts)
    pool = case.tensor(16, case.head_dim)
    x = case.tensor(case.many, case.many * case.head_dim)
    lora.lora_expand(lora.lora_shrink(x, pool, rows, plan), pool, rows, plan, x)


def _scores(case: Case) -> None:
    query = case.tensor(case.many, case.many, case.head_dim)
    scores.token_scores(query, case.pool, _ints(16), case.many, 0.125, causal=True, log_weights=case.weights)


OPERATIONS: dict[str, Callable[[Case], None]] = {
    "attention": _attention,
    "load": _load,
    "lora": _lora,
    "lse": _lse,
    "pages": _pages,
    "quantise": _quantise,
    "rotate": _rotate,
    "scores": _scores,
}


def cases(operation: str) -> Iterator[Case]:
    """Return the cases to compile."""
    if operation == "pages":
        yield Case(torch.uint8)
    elif operation in ("lora", "lse"):
        yield from map(Case, DTYPES)
    elif operation in ("attention", "scores"):
        yield from itertools.starmap(Case, itertools.product(DTYPES, HEAD_DIMS))
    else:
        yield from (Case(dtype) for dtype in DTYPES[1:])
        yield from (Case(DTYPES[0], head_dim) for head_dim in HEAD_DIMS)
    if operation in ("attention", "load", "quantise", "scores"):
        yield Case(DTYPES[0], plain=True)


def launches(operation: str, case: Case) -> list[Launch]:
    """Return the launches of an operation's own kernels."""
    with recorded() as made:
        OPERATIONS[operation](case)
    return [launch for launch in made if launch.kernel.fn.__module__ == f"memos_kernels.{operation}.gpu"]


def _ints(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int32)
