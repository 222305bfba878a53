"""Compiling every CPU kernel once, for the dtypes of caches: ``python -m memos_kernels.warm``.

What is compiled is kept on disk, beside the modules or in ``NUMBA_CACHE_DIR``, for all later processes.
"""

from __future__ import annotations

import sys
import time

import torch

from memos_kernels import (
    QuantisedPages,
    combine_lse,
    dequant_rotate_gather,
    gather_pages,
    lora_expand,
    lora_shrink,
    paged_attention_decode,
    plan_lora,
    quantise_pages,
    rotate_keys,
    scatter_pages,
    token_scores,
)
from memos_kernels.lora.plan import RankRows
from memos_kernels.quantise import no_turn

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def warm(dtype: torch.dtype) -> None:
    """Call every kernel on a tiny input of ``dtype``."""
    cache = torch.zeros(1, 2, 1, 4, 8, dtype=dtype)
    flat, table = cache.flatten(0, 1), torch.arange(2, dtype=torch.int32)
    pool = torch.zeros(2, 1, 4, 8, dtype=dtype)
    scatter_pages(flat, pool, table.view(2, 1))
    gather_pages(pool, table.view(2, 1), flat)
    rotate_keys(flat[0], *no_turn(cache))
    pages = QuantisedPages.empty(1, 1, 4, 8, 8)
    quantise_pages(cache, pages, table[:1].view(1, 1))
    dequant_rotate_gather(pages, table[:1].view(1, 1), 4, pool, table.view(1, 2, 1))
    query, lengths = torch.zeros(1, 1, 8, dtype=dtype), torch.full((1,), 4, dtype=torch.int32)
    out, lse = paged_attention_decode(query, pool, pool, table.view(1, 2, 1), lengths, scaling=1.0)
    combine_lse([out, out], [lse, lse])
    token_scores(query, pool, table, 4, scaling=1.0)
    rows = RankRows(table.view(2, 1), torch.tensor([0, 2], dtype=torch.int32))
    plan, tokens = plan_lora([[(0, 1.0)]], rows.starts), torch.zeros(1, 32, dtype=dtype)
    lora_expand(lora_shrink(tokens, pool.view(2, 32), rows, plan), pool.view(2, 32), rows, plan, tokens)


def main() -> int:
    """Compile everything and say how long that took."""
    start = time.perf_counter()
    for dtype in DTYPES:
        warm(dtype)
    sys.stdout.write(f"kernels ready after {time.perf_counter() - start:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
