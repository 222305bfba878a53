"""The adapters of a step in plain PyTorch: shrink, then expand."""

from __future__ import annotations

import torch

from memos_kernels.adapters.step import AdapterStep
from memos_kernels.lora.reference import lora_expand, lora_shrink


def apply_adapters(x: torch.Tensor, pool: torch.Tensor, step: AdapterStep, module: int, out: torch.Tensor) -> None:
    """See :func:`memos_kernels.adapters.apply_adapters`."""
    down, up, plan = step.module(module)
    there = [type(rows)(*(part.to(x.device) for part in rows)) for rows in (down, up)]
    plan = plan.to(x.device)
    lora_expand(lora_shrink(x, pool, there[0], plan), pool, there[1], plan, out)
