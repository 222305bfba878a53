"""Gather and scatter by PyTorch indexing."""

from __future__ import annotations

import torch

from memos_kernels.checks import blocks_of


def gather_pages(pools: list[torch.Tensor], table: torch.Tensor, out: torch.Tensor) -> None:
    """See :func:`memos_kernels.pages.gather_pages`."""
    heads, tokens, head_dim = out.shape[1:]
    for pool, pages, matrix in zip(pools, table, out, strict=True):
        used = pages[: blocks_of(tokens, pool.shape[2])].long()
        matrix.copy_(pool[used].transpose(0, 1).reshape(heads, -1, head_dim)[:, :tokens])


def scatter_pages(source: torch.Tensor, pools: list[torch.Tensor], table: torch.Tensor) -> None:
    """See :func:`memos_kernels.pages.scatter_pages`."""
    tokens = torch.arange(source.shape[2], device=source.device)
    for pool, pages, matrix in zip(pools, table, source, strict=True):
        size = pool.shape[2]
        pool[pages[tokens // size].long(), :, tokens % size] = matrix.transpose(0, 1)
