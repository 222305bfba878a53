"""The best adapter of a lower rank, without ever forming the change of the weight."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch

from memos.errors import AdapterRefused, InvalidInput
from memos.parametric.adapter import Factors

#: Power iterations of :func:`leading`. One comes within 1e-4 of a dense SVD's error on what adapters merge to.
SWEEPS = 2


@dataclass(frozen=True, slots=True)
class Keep:
    """How many ranks to keep: at most ``rank``, and no more than a relative Frobenius ``error`` needs."""

    rank: int | None = None
    error: float | None = None

    def __post_init__(self) -> None:
        if self.rank is not None and operator.index(self.rank) < 1:
            raise InvalidInput(f"rank is {self.rank!r}; a whole number from 1 on is needed")
        if self.error is not None and not 0 <= self.error < 1:
            raise InvalidInput(f"error is {self.error!r}; a share of the norm from 0 to below 1 is needed")

    def count(self, singular: torch.Tensor) -> int:
        """Return how many of these singular values, in descending order, to keep: at least one."""
        kept = len(singular)
        if self.error is not None:
            # left_out[k] is the squared error of keeping k.
            left_out = singular.double().square().flip(0).cumsum(0).flip(0)
            kept = max(1, int((left_out > self.error**2 * left_out[0]).sum()))
        return kept if self.rank is None else min(kept, self.rank)


def low_rank(up: torch.Tensor, down: torch.Tensor, keep: Keep) -> Factors:
    """Return the best approximation of ``up @ down`` (Eckart-Young), its ranks in descending singular value.

    ``up = Q_u R_u`` and ``down^T = Q_d R_d``, so ``up @ down = Q_u (R_u R_d^T) Q_d^T``: the singular values are those
    of a core as small as the rank, and its singular vectors need only be turned back by the orthonormal ``Q``. A prefix
    of the ranks is the best adapter of that rank. ``up`` is float32 ``[out, r]``, ``down`` float32 ``[r, in]``; the
    roots of the singular values are shared between both factors and the largest one is the scaling, so that elements
    are within -1 and 1. Raises :class:`AdapterRefused` if the product is not finite in float32.
    """
    outputs, upper = torch.linalg.qr(up)
    inputs, lower = torch.linalg.qr(down.T)
    core = upper @ lower.T
    if not core.isfinite().all():
        raise AdapterRefused("what it adds to a weight is not finite in float32")
    left, singular, right = torch.linalg.svd(core, full_matrices=False)
    kept = keep.count(singular)
    largest = float(singular[0]) or 1.0
    roots = (singular[:kept] / largest).sqrt()
    return Factors(roots[:, None] * (right[:kept] @ inputs.T), (outputs @ left[:, :kept]) * roots, largest)


def leading(delta: torch.Tensor, start: torch.Tensor, keep: Keep) -> Factors:
    """Return nearly the best approximation of a dense float32 ``delta`` ``[out, in]``.

    Power iteration (arXiv:0909.4061, algorithm 4.4) from a space that is known to be near: ``start`` ``[k, in]``, the
    downs of the adapters that ``delta`` was made of. At most ``k`` ranks; exact for ``k = in``. Nothing is random.
    Raises what :func:`low_rank` does.
    """
    basis, _ = torch.linalg.qr(start.T)
    for _ in range(SWEEPS):
        image, _ = torch.linalg.qr(delta @ basis)
        basis, _ = torch.linalg.qr(delta.T @ image)
    return low_rank(delta @ basis, basis.T, keep)
