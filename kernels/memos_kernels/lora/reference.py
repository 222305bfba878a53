"""Adapters in plain PyTorch, one use at a time."""

from __future__ import annotations

import torch

from memos_kernels.checks import page_table
from memos_kernels.lora.plan import LoraPlan, RankRows


def lora_shrink(x: torch.Tensor, pool: torch.Tensor, down: RankRows, plan: LoraPlan) -> torch.Tensor:
    """See :func:`memos_kernels.lora.lora_shrink`."""
    y = torch.zeros(plan.ranks, device=x.device)
    offsets = plan.offsets.tolist()
    for use, (token, adapter) in enumerate(zip(plan.tokens.tolist(), plan.adapters.tolist(), strict=True)):
        y[offsets[use] : offsets[use + 1]] = matrix(pool, down, adapter) @ x[token].float()
    return y


def lora_expand(y: torch.Tensor, pool: torch.Tensor, up: RankRows, plan: LoraPlan, out: torch.Tensor) -> None:
    """See :func:`memos_kernels.lora.lora_expand`."""
    total = torch.zeros(out.shape, device=out.device)
    offsets, weights = plan.offsets.tolist(), plan.weights.tolist()
    for use, (token, adapter) in enumerate(zip(plan.tokens.tolist(), plan.adapters.tolist(), strict=True)):
        total[token] += weights[use] * (y[offsets[use] : offsets[use + 1]] @ matrix(pool, up, adapter))
    used = plan.tokens.long().unique()
    out[used] = (out[used].float() + total[used]).to(out.dtype)


def matrix(pool: torch.Tensor, rows: RankRows, adapter: int) -> torch.Tensor:
    """Return the rank rows of an adapter, float32 ``[rank, chunks * width]``. Raises ``ValueError``."""
    page_table("slots", rows.slots, len(pool), rows.slots.shape[1])
    first, last = int(rows.starts[adapter]), int(rows.starts[adapter + 1])
    return pool[rows.slots[first:last].long()].float().flatten(1)
