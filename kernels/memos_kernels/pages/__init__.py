"""Copying between pages and contiguous memory, all matrices (layers × keys and values) in one launch.

LMCache's ``multi_layer_kv_transfer`` moves all layers of a chunk by one table of layer pointers; so does this.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from memos_kernels import checks
from memos_kernels.dispatch import run


def gather_pages(pools: Sequence[torch.Tensor] | torch.Tensor, table: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Copy pages to contiguous memory::

        out[m, h, t] = pools[m][table[m, t // P], h, t % P]

    Args:
        pools: one tensor ``[pages, heads, P, head_dim]`` for each of ``M`` matrices, or one for all; any dtype.
        table: int32 ``[M, blocks]``, or ``[1, blocks]`` for all matrices alike.
        out: ``[M, heads, T, head_dim]`` of the same dtype, written in place.

    Returns:
        ``out``.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or a table that names pages outside the pool.
    """
    run("pages", "gather_pages", out, _pools(pools, table, out), _spread(table, len(out)), out)
    return out


def scatter_pages(source: torch.Tensor, pools: Sequence[torch.Tensor] | torch.Tensor, table: torch.Tensor) -> None:
    """Copy contiguous memory to pages, in place in ``pools``: the inverse of :func:`gather_pages`.

    Pages must not occur twice among the tokens written; the rest of a last page is left as it is. Arguments and errors
    as there.
    """
    run("pages", "scatter_pages", source, source, _pools(pools, table, source), _spread(table, len(source)))


def _pools(
    pools: Sequence[torch.Tensor] | torch.Tensor, table: torch.Tensor, contiguous: torch.Tensor
) -> list[torch.Tensor]:
    checks.shaped("the contiguous side", contiguous, (None, None, None, None))
    matrices, heads, tokens, head_dim = contiguous.shape
    each = [pools] * matrices if isinstance(pools, torch.Tensor) else list(pools)
    if len(each) != matrices or len(table) not in (1, matrices) or table.dim() != 2:
        raise ValueError(f"{len(each)} pools and a table {list(table.shape)} do not fit {matrices} matrices")
    for pool in dict.fromkeys(each):
        checks.pages("a pool", pool, (None, heads, each[0].shape[2] if each[0].dim() == 4 else None, head_dim))
        checks.same_device(pool=pool, table=table, contiguous=contiguous)
        if pool.dtype != contiguous.dtype:
            raise ValueError(f"a pool is {pool.dtype} and the contiguous side {contiguous.dtype}")
    if each:
        checks.page_table("the table", table, min(map(len, each)), checks.blocks_of(tokens, each[0].shape[2]))
    return each


def _spread(table: torch.Tensor, matrices: int) -> torch.Tensor:
    return table.expand(matrices, -1)
