"""Inputs that tests and benchmarks share: which adapters a batch uses, shuffled pages, random caches.

The five popularity patterns are Punica's (arXiv:2310.18547).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from memos_kernels.adapters import AdapterStep, layout_of
from memos_kernels.checks import blocks_of
from memos_kernels.lora import RankRows
from memos_kernels.memory import huge_tensor

POPULARITY = ("identical", "distinct", "uniform", "zipf", "skewed")


def popularity(pattern: str, batch: int, seed: int = 0) -> list[int]:
    """Return the adapter of each of ``batch`` tokens.

    ``identical``: one for all; ``distinct``: one each; ``uniform``: about the square root of ``batch`` of them, alike;
    ``zipf``: by Zipf's law with exponent 1.5; ``skewed``: half of the tokens share one, the others have one each.
    """
    random, places = np.random.default_rng(seed), np.arange(batch)
    chosen: NDArray[Any]
    if pattern == "identical":
        chosen = np.zeros(batch)
    elif pattern == "distinct":
        chosen = random.permutation(batch)
    elif pattern == "uniform":
        chosen = random.integers(0, max(1, round(batch**0.5)), batch)
    elif pattern == "zipf":
        chosen = np.minimum(random.zipf(1.5, batch) - 1, batch - 1)
    elif pattern == "skewed":
        chosen = np.where(places < batch // 2, 0, places)
    else:
        raise ValueError(f"no popularity pattern {pattern!r}; there are {', '.join(POPULARITY)}")
    return [int(adapter) for adapter in chosen]


def shuffled_table(rows: int, blocks: int, seed: int = 0, spare: int = 0) -> torch.Tensor:
    """Return int32 ``[rows, blocks]``: every page of ``rows * blocks + spare`` at most once, in random order."""
    order = np.random.default_rng(seed).permutation(rows * blocks + spare)[: rows * blocks]
    return torch.from_numpy(order.astype(np.int32).reshape(rows, blocks))


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Return standard normal numbers, the same for a seed on every machine."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype)


def paged(
    dense: torch.Tensor, page_tokens: int, *, order: int = 0, spare: int = 1, fill: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a pool and an int32 table ``[M, blocks]`` that hold ``[M, heads, T, head_dim]``, any dtype.

    Pages stand in random order (the seed ``order``) among ``spare`` more; slots without a token hold ``fill``.
    """
    matrices, heads, tokens, head_dim = dense.shape
    blocks = blocks_of(tokens, page_tokens)
    table = shuffled_table(matrices, blocks, order, spare)
    room = torch.full((matrices, heads, blocks * page_tokens, head_dim), fill, dtype=dense.dtype)
    room[:, :, :tokens] = dense
    pool = torch.full((matrices * blocks + spare, heads, page_tokens, head_dim), fill, dtype=dense.dtype)
    pool[table.long()] = room.view(matrices, heads, blocks, page_tokens, head_dim).transpose(1, 2)
    return pool, table


class Heads(NamedTuple):
    """The layout of an attention layer and of its pages."""

    heads: int
    kv_heads: int
    head_dim: int
    page_tokens: int


class Sequences(NamedTuple):
    """Packed rows and paged caches of some sequences: what paged attention is called with."""

    query: torch.Tensor
    starts: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    table: torch.Tensor
    lengths: torch.Tensor
    log_weights: torch.Tensor


def sequences(
    lengths: Sequence[int],
    rows: Sequence[int],
    layout: Heads,
    dtype: torch.dtype = torch.float32,
    *,
    seed: int = 0,
    order: int = 0,
    shared: bool = False,
    fill: float = 0.0,
) -> Sequences:
    """Return random caches of ``lengths`` tokens with ``rows`` rows each. ``order`` is the seed of the pages' order.

    ``shared``: keys and values live in one pool. Slots without a token, and one more page, hold ``fill``; so do weights
    that belong to no key. Table entries after a sequence's last page name no page.
    """
    heads, kv_heads, head_dim, size = layout
    blocks = [blocks_of(length, size) for length in lengths]
    pages = sum(blocks) * (2 if shared else 1) + 1
    orders = [np.random.default_rng(order + side).permutation(pages).tolist() for side in range(1 if shared else 2)]
    keys = torch.full((pages, kv_heads, size, head_dim), fill, dtype=dtype)
    values = keys if shared else keys.clone()
    weights = torch.full(keys.shape[:3], fill)
    table = torch.full((len(lengths), 2, max(blocks, default=0)), 2**30, dtype=torch.int32)
    for b, length in enumerate(lengths):
        for side, pool in enumerate((keys, values)):
            tokens = random_tensor((kv_heads, length, head_dim), dtype, seed * 1000 + 2 * b + side)
            merged = random_tensor((kv_heads, length), seed=seed * 1000 + b).abs()
            for block in range(blocks[b]):
                page, part = orders[side % len(orders)].pop(), slice(block * size, min((block + 1) * size, length))
                table[b, side, block] = page
                pool[page, :, : part.stop - part.start] = tokens[:, part]
                if pool is keys and not side:
                    weights[page, :, : part.stop - part.start] = merged[:, part]
    starts = torch.tensor([0, *np.cumsum(rows)], dtype=torch.int32)
    query = random_tensor((sum(rows), heads, head_dim), dtype, seed + 1)
    return Sequences(query, starts, keys, values, table, torch.tensor(lengths, dtype=torch.int32), weights)


def rank_rows(
    ranks: Sequence[int], chunks: int, width: int, dtype: torch.dtype = torch.float32, *, seed: int = 0, order: int = 0
) -> tuple[torch.Tensor, RankRows, list[torch.Tensor]]:
    """Return a pool, where the rows of adapters of these ranks are in it, and the matrices ``[rank, chunks * width]``.

    Rows stand in random order (the seed ``order``) among three more slots, of not-a-number.
    """
    total = sum(ranks)
    rows = random_tensor((total, chunks * width), dtype, seed)
    slots = shuffled_table(total, chunks, order, spare=3)
    pool = torch.full((total * chunks + 3, width), float("nan"), dtype=dtype)
    pool[slots.long()] = rows.view(total, chunks, width)
    starts = torch.tensor([0, *np.cumsum(ranks)], dtype=torch.int32)
    return pool, RankRows(slots, starts), list(rows.split(list(ranks)))


Matrices = list[list[tuple[torch.Tensor, torch.Tensor]]]


def adapter_step(
    ranks: Sequence[Sequence[int]],
    chunks: Sequence[tuple[int, int]],
    width: int,
    uses: Sequence[Sequence[tuple[int, float]]],
    dtype: torch.dtype = torch.float32,
    *,
    page_slots: int = 16,
    seed: int = 0,
    order: int = 0,
) -> tuple[torch.Tensor, AdapterStep, Matrices]:
    """Return a pool, the step of adapters of ``ranks`` (``[adapters][modules]``) in it, and their matrices A and B.

    Pages stand in random order (the seed ``order``) with one more among them; slots that nothing fills are no numbers.
    """
    table, shape = np.array(ranks, np.int32), np.array(chunks, np.int32)
    layouts = [layout_of(row, shape) for row in table]
    blocks = -(-max(int(starts[-1]) for _, starts in layouts) // page_slots)
    pages = shuffled_table(len(table), blocks, order, spare=1).numpy()
    places = np.zeros((*table.shape, max(places.shape[1] for places, _ in layouts)), np.int32)
    for adapter, (own, _) in enumerate(layouts):
        places[adapter, :, : own.shape[1]] = own
    pool = huge_tensor(((pages.size + 1) * page_slots, width), dtype).fill_(float("nan"))
    step = AdapterStep(pages, places, table, shape, page_slots, uses)
    matrices: Matrices = []
    for adapter, row in enumerate(table):
        matrices.append([])
        for module, (inward, outward) in enumerate(chunks):
            key = (seed * 1000 + adapter) * 1000 + module
            a = random_tensor((int(row[module]), inward * width), dtype, 2 * key)
            b = random_tensor((int(row[module]), outward * width), dtype, 2 * key + 1)
            for side, rows in ((0, a), (1, b)):
                pool[step.slots(adapter, module, side).ravel()] = rows.view(-1, width)
            matrices[-1].append((a, b.t()))
    return pool, step, matrices
