"""Compiling every CPU kernel once, for the dtypes of caches: ``python -m memos_kernels.warm``.

What is compiled is kept on disk, beside the modules or in ``NUMBA_CACHE_DIR``, for all later processes.
"""

from __future__ import annotations

import sys
import time

import torch

from memos_kernels import (
    QuantisedPages,
    apply_adapters,
    combine_lse,
    dequant_rotate_gather,
    gather_pages,
    lora_expand,
    lora_shrink,
    paged_attention_decode,
    paged_attention_prefill,
    plan_lora,
    quantise_pages,
    rotate_keys,
    scatter_pages,
    token_scores,
)
from memos_kernels.lora.plan import RankRows
from memos_kernels.quantise import no_turn
from memos_kernels.workloads import adapter_step

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TOKENS, HEAD_DIM = 1024, 64


def warm(dtype: torch.dtype) -> None:
    """Call every kernel on an input of ``dtype`` that is just large enough for several threads."""
    cache = torch.zeros(1, 2, 2, TOKENS, HEAD_DIM, dtype=dtype)
    flat, table = cache.flatten(0, 1), torch.arange(2, dtype=torch.int32)
    pool, pages = torch.zeros_like(flat), table.view(2, 1)
    scatter_pages(flat, pool, pages)
    gather_pages(pool, pages, flat)
    rotate_keys(flat[0], *no_turn(cache))
    halves = QuantisedPages.empty(2, 2, TOKENS // 2, HEAD_DIM, 8)
    quantise_pages(cache, halves, pages.view(1, 2))
    dequant_rotate_gather(halves, pages.view(1, 2), TOKENS, pool, pages.view(1, 2, 1))
    _attend(pool, pages)
    rows = RankRows(torch.arange(32, dtype=torch.int32).view(32, 1), torch.tensor([0, 16, 32], dtype=torch.int32))
    tokens, slots = torch.zeros(16, 4096, dtype=dtype), torch.zeros(32, 4096, dtype=dtype)
    plan = plan_lora([[(token % 2, 1.0)] for token in range(16)], rows.starts)
    lora_expand(lora_shrink(tokens, slots, rows, plan), slots, rows, plan, tokens)
    pool, step, _ = adapter_step([[16]], [(1, 1)], 4096, [[(0, 1.0)]] * 16, dtype)
    apply_adapters(tokens, pool, step, 0, tokens.clone())


def _attend(pool: torch.Tensor, pages: torch.Tensor) -> None:
    """Decode, prefill, join and score two sequences."""
    table, lengths = pages.view(2, 1, 1).expand(2, 2, 1).contiguous(), torch.full((2,), TOKENS, dtype=torch.int32)
    query, starts = torch.zeros(4, 2, HEAD_DIM, dtype=pool.dtype), torch.tensor([0, 2, 4], dtype=torch.int32)
    paged_attention_decode(query[:2], pool, pool, table, lengths, scaling=1.0)
    out, lse = paged_attention_prefill(query, starts, pool, pool, table, lengths, scaling=1.0, causal=True)
    combine_lse([out, out], [lse, lse])
    token_scores(query, pool, pages[0], TOKENS, scaling=1.0)


def main() -> int:
    """Compile everything and say how long that took."""
    start = time.perf_counter()
    for dtype in DTYPES:
        warm(dtype)
    sys.stdout.write(f"kernels ready after {time.perf_counter() - start:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
