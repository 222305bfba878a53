"""All that a projection's adapters add, in one pass over their pages: how a model serves many of them (S-LoRA)."""

from __future__ import annotations

import torch

from memos_kernels import checks
from memos_kernels.adapters.step import GROUP, AdapterStep, layout_of
from memos_kernels.dispatch import run

__all__ = ["GROUP", "AdapterStep", "apply_adapters", "layout_of"]


def apply_adapters(x: torch.Tensor, pool: torch.Tensor, step: AdapterStep, module: int, out: torch.Tensor) -> None:
    """Add what the adapters of each token say of a projection, in place::

        out[t] += sum_u weights[u] B[a_u] (A[a_u] x[t])      over the uses u of token t

    in float32, rounded once. Equals :func:`~memos_kernels.lora_shrink` and :func:`~memos_kernels.lora_expand` one after
    the other (arXiv:2311.03285, equations 1 and 2), but every adapter is read once, in the order it lies in memory.

    Args:
        x: packed tokens ``[T, in]``; float32, bfloat16 or float16.
        pool: ``[slots, width]`` of the same dtype, a whole number of pages.
        step: where the adapters are and who uses them.
        module: which of the step's modules this is.
        out: ``[T, out]`` of the same dtype, such as the base model's projection.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or pages outside the pool.
    """
    _check(x, pool, step, module, out)
    if step.work[module]:
        run("adapters", "apply_adapters", out, x, pool, step, module, out)


def _check(x: torch.Tensor, pool: torch.Tensor, step: AdapterStep, module: int, out: torch.Tensor) -> None:
    if not 0 <= module < len(step.chunks):
        raise ValueError(f"module {module} is none of {len(step.chunks)}")
    checks.floating("x", x)
    checks.shaped("the pool", pool, (None, None))
    inward, outward = (int(chunks) * pool.shape[1] for chunks in step.chunks[module])
    checks.shaped("x", x, (step.tokens, inward))
    checks.shaped("out", out, (step.tokens, outward))
    if not pool.dtype == x.dtype == out.dtype:
        raise ValueError(f"x is {x.dtype}, the pool {pool.dtype} and out {out.dtype}; they must be the same")
    if step.pool_pages * step.page_slots > pool.shape[0]:
        raise ValueError(f"the adapters lie in pages outside the pool of {pool.shape[0] // step.page_slots}")
    checks.same_device(x=x, pool=pool, out=out)
