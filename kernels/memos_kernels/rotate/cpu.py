"""Rotation in numba, one pass, in place or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from memos_kernels.rows import rotate_row
from memos_kernels.simd import words
from memos_kernels.threads import Work, finish, launch, take

#: Tokens in a piece of work.
RUN = 64


def rotate_keys(keys: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, out: torch.Tensor) -> None:
    """See :func:`memos_kernels.rotate.rotate_keys`."""
    matrices, tokens, head_dim = keys.shape
    launch(
        _rotate, matrices * -(-tokens // RUN), 2 * keys.nbytes, words(keys), words(out), words(cosine), words(sine),
        (tokens, head_dim, len(cosine) > 1),
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _rotate(
    work: Work,
    keys: NDArray[Any],
    out: NDArray[Any],
    cosine: NDArray[np.float32],
    sine: NDArray[np.float32],
    shape: tuple[int, int, bool],
) -> None:
    tokens, head_dim, each = shape
    half, runs = head_dim // 2, -(-tokens // RUN)
    item = take(work)
    while item < work[2]:
        matrix, first = item // runs, item % runs * RUN
        for token in range(first, min(first + RUN, tokens)):
            at = (matrix * tokens + token) * head_dim
            angle = token * half if each else 0
            rotate_row(keys, at, out, at, cosine, sine, angle, half)
        finish(work)
        item = take(work)
