"""All that a projection's adapters add, in one pass over their pages: how a model serves many of them (S-LoRA)."""

from __future__ import annotations

from typing import NoReturn

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
    if not _fits(x, pool, step, module, out):
        _refuse(x, pool, step, module, out)
    if step.work[module]:
        run("adapters", "apply_adapters", out, x, pool, step, module, out)


def _fits(x: torch.Tensor, pool: torch.Tensor, step: AdapterStep, module: int, out: torch.Tensor) -> bool:
    """Return whether a kernel may run: a call takes some microseconds, of which this is to be few."""
    if not 0 <= module < len(step.widths) or pool.dim() != 2:
        return False
    (inward, outward), width = step.widths[module], pool.shape[1]
    return (
        x.shape == (step.tokens, inward * width)
        and out.shape == (step.tokens, outward * width)
        and x.dtype == pool.dtype == out.dtype
        and x.dtype in checks.FLOATS
        and x.device == pool.device == out.device
        and x.is_contiguous()
        and pool.is_contiguous()
        and out.is_contiguous()
        and step.pool_pages * step.page_slots <= pool.shape[0]
    )


def _refuse(x: torch.Tensor, pool: torch.Tensor, step: AdapterStep, module: int, out: torch.Tensor) -> NoReturn:
    """Say what does not fit."""
    if not 0 <= module < len(step.widths):
        raise ValueError(f"module {module} is none of {len(step.widths)}")
    checks.floating("x", x)
    checks.shaped("the pool", pool, (None, None))
    inward, outward = (chunks * pool.shape[1] for chunks in step.widths[module])
    checks.shaped("x", x, (step.tokens, inward))
    checks.shaped("out", out, (step.tokens, outward))
    checks.same_device(x=x, pool=pool, out=out)
    if not pool.dtype == x.dtype == out.dtype:
        raise ValueError(f"x is {x.dtype}, the pool {pool.dtype} and out {out.dtype}; they must be the same")
    raise ValueError(f"the adapters lie in pages outside the pool of {pool.shape[0] // step.page_slots}")
