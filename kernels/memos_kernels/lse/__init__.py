"""Joining attention over disjoint sets of keys, exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from memos_kernels import checks
from memos_kernels.dispatch import run


def combine_lse(outputs: Sequence[torch.Tensor], lses: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Merge partial attentions by their log-sum-exps (Ye et al. 2025, FlashInfer, arXiv:2501.01005, eq. 1-3)::

        lse = log sum_i e^(lse_i),   out = sum_i e^(lse_i - lse) out_i

    Args:
        outputs: ``[.., D]`` each, all of one shape and dtype.
        lses: float32 ``[..]`` each; minus infinity for a part without keys, whose output counts for nothing, whatever
            it is.

    Returns:
        ``out`` like the outputs and ``lse`` like the lses; zeros and minus infinity where no part has keys.

    Raises:
        ValueError: no parts, or shapes, dtypes or devices that do not fit.
    """
    if not outputs or len(outputs) != len(lses):
        raise ValueError(f"{len(outputs)} outputs with {len(lses)} log-sum-exps")
    first = outputs[0]
    checks.floating("outputs", first)
    for output, lse in zip(outputs, lses, strict=True):
        checks.shaped("an output", output, first.shape)
        checks.shaped("a log-sum-exp", lse, first.shape[:-1])
        if output.dtype != first.dtype or lse.dtype != torch.float32:
            raise ValueError(f"outputs of {first.dtype} and {output.dtype} with log-sum-exps of {lse.dtype}")
        checks.same_device(first=first, output=output, lse=lse)
    result: tuple[torch.Tensor, torch.Tensor] = run("lse", "combine_lse", first, list(outputs), list(lses))
    return result
