"""Many adapters in one batch, their rank rows in pages: S-LoRA (arXiv:2311.03285) and Punica (arXiv:2310.18547)."""

from __future__ import annotations

import torch

from memos_kernels import checks
from memos_kernels.dispatch import run
from memos_kernels.lora.plan import LoraPlan, RankRows, plan_lora

__all__ = ["LoraPlan", "RankRows", "lora_expand", "lora_shrink", "plan_lora"]


def lora_shrink(x: torch.Tensor, pool: torch.Tensor, down: RankRows, plan: LoraPlan) -> torch.Tensor:
    """Project tokens to the ranks of their adapters. For use ``u`` (token ``t``, adapter ``a``) and each rank ``r``::

        y[offsets[u] + r] = sum_i x[t, i] A[a][r, i]

    in float32, ranks of any mixture, none padded.

    Args:
        x: packed tokens ``[T, in]``; float32, bfloat16 or float16.
        pool: ``[slots, width]`` of the same dtype; ``in`` is ``chunks * width``.
        down: where the rows of A are.
        plan: who uses what.

    Returns:
        float32 ``[plan.ranks]``.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or rows outside the pool.
    """
    _check(x, pool, down, plan)
    result: torch.Tensor = run("lora", "lora_shrink", x, x, pool, down, plan)
    return result


def lora_expand(y: torch.Tensor, pool: torch.Tensor, up: RankRows, plan: LoraPlan, out: torch.Tensor) -> torch.Tensor:
    """Add what the adapters say, in place: over the uses ``u`` of token ``t``, and their ranks ``r``::

        out[t] += sum_u weights[u] sum_r y[offsets[u] + r] B[a][:, r]

    in float32, rounded once. Tokens without adapters stay as they are.

    Args:
        y: float32 ``[plan.ranks]`` of :func:`lora_shrink`.
        pool: ``[slots, width]``; ``out``'s width is ``chunks * width``.
        up: where the columns of B are, as rows.
        plan: who uses what.
        out: ``[T, out]`` of the pool's dtype, such as the base model's projection.

    Returns:
        ``out``.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or rows outside the pool.
    """
    _check(out, pool, up, plan)
    checks.shaped("y", y, (plan.ranks,))
    checks.same_device(y=y, out=out)
    if y.dtype != torch.float32:
        raise ValueError(f"y is {y.dtype}; float32 is needed")
    run("lora", "lora_expand", out, y, pool, up, plan, out)
    return out


def _check(tokens: torch.Tensor, pool: torch.Tensor, rows: RankRows, plan: LoraPlan) -> None:
    checks.floating("tokens", tokens)
    checks.shaped("the pool", pool, (None, None))
    checks.shaped("slots", rows.slots, (None, None))
    checks.shaped("tokens", tokens, (plan.token_starts.shape[0] - 1, rows.slots.shape[1] * pool.shape[1]))
    checks.same_device(tokens=tokens, pool=pool, slots=rows.slots, starts=rows.starts, plan=plan.tokens)
    if pool.dtype != tokens.dtype:
        raise ValueError(f"the pool is {pool.dtype} and the tokens {tokens.dtype}")
    checks.page_table("slots", rows.slots, None, rows.slots.shape[1])
    checks.shaped("starts", rows.starts, (None,))
    if rows.starts.dtype != torch.int32:
        raise ValueError(f"starts is {rows.starts.dtype}; int32 is needed")
