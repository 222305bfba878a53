"""The merge in numba, one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from memos_kernels.simd import exp, narrow, widen, words


def combine_lse(outputs: list[torch.Tensor], lses: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`memos_kernels.lse.combine_lse`."""
    out, lse = torch.empty_like(outputs[0]), torch.empty_like(lses[0])
    parts = torch.stack(outputs).reshape(len(outputs), -1, out.shape[-1])
    masses = torch.stack(lses).reshape(len(lses), -1)
    merged(words(parts).reshape(parts.shape), masses.numpy(), words(out), words(lse))
    return out, lse


@njit(cache=True, nogil=True, error_model="numpy")
def merged(parts: NDArray[Any], masses: NDArray[np.float32], out: NDArray[Any], lse: NDArray[np.float32]) -> None:
    """Join ``parts`` ``[n, rows, D]`` with log-sum-exps ``[n, rows]`` into ``out`` and ``lse``, both flat."""
    count, rows, width = parts.shape
    total = np.empty(width, np.float32)
    for row in range(rows):
        highest = np.float32(-np.inf)
        for part in range(count):
            highest = max(highest, masses[part, row])
        total[:] = np.float32(0)
        mass = np.float32(0)
        for part in range(count):
            if masses[part, row] > np.float32(-np.inf):
                share = exp(masses[part, row] - highest)
                mass += share
                for d in range(width):
                    total[d] += share * widen(parts[part, row, d])
        whole = np.float32(1) / mass if mass > 0 else np.float32(0)
        for d in range(width):
            out[row * width + d] = narrow(total[d] * whole, out)
        lse[row] = highest + np.float32(np.log(mass)) if mass > 0 else np.float32(-np.inf)
