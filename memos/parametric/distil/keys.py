"""Where an adapter of some facts should look: at what these show and other text does not.

With ``F`` ``[n, in]`` and ``G`` ``[m, in]`` what a projection reads on the facts' tokens and on generic text, the rows
of LoRA's A begin as the ``rank`` directions ``a`` that maximise

    a' (F'F / n) a  /  a' (G'G / m + ridge * mean(G^2) * I) a

scaled to a mean square of 1 on the facts, so generic text hardly reaches the adapter from the first step on. The idea
is that of AlphaEdit (arXiv:2410.02355), which confines edits to the null space of what must be kept, as a start instead
of a constraint.
"""

from __future__ import annotations

import torch

#: Directions kept beside those wanted while these are sought, and how often the search is repeated.
SPARE, ROUNDS = 8, 8


def directions(facts: torch.Tensor, generic: torch.Tensor, rank: int, ridge: float) -> torch.Tensor:
    """Return float32 ``[rank, in]``, best direction first, for inputs ``[n, in]`` and ``[m, in]`` of a projection.

    Rows beyond the number of directions there are, are zero.
    """
    wanted, kept = facts.float() / len(facts) ** 0.5, generic.float() / len(generic) ** 0.5
    small = ridge * kept.square().sum() / kept.shape[1] + 1e-12
    basis = _basis(wanted, kept, small, min(rank + SPARE, *wanted.shape))
    above, below = wanted @ basis, kept @ basis
    lower = torch.linalg.cholesky(below.T @ below + small * torch.eye(basis.shape[1], device=basis.device))
    white = torch.linalg.solve_triangular(lower, above.T, upper=False)
    vectors = torch.linalg.eigh(white @ white.T)[1].flip(1)[:, :rank]
    found = (basis @ torch.linalg.solve_triangular(lower.T, vectors, upper=True)).T
    scale = (wanted @ found.T).square().sum(0).sqrt().clamp(min=1e-6)
    result = torch.zeros(rank, kept.shape[1], device=kept.device)
    result[: len(found)] = found / scale[:, None]
    return result


def _basis(wanted: torch.Tensor, kept: torch.Tensor, small: torch.Tensor, width: int) -> torch.Tensor:
    """Return an orthonormal ``[in, width]`` that holds the best directions, by subspace iteration.

    The inverse of ``G'G + small * I`` is applied through the ``[m, m]`` Gram matrix (Woodbury's identity).
    """
    rows = len(kept)
    gram = torch.linalg.cholesky(kept @ kept.T + small * torch.eye(rows, device=kept.device))
    random = torch.Generator().manual_seed(0)
    basis = torch.randn(wanted.shape[1], width, generator=random).to(kept.device)
    for _ in range(ROUNDS):
        pulled = wanted.T @ (wanted @ basis)
        inverse = (pulled - kept.T @ torch.cholesky_solve(kept @ pulled, gram)) / small
        basis = torch.linalg.qr(inverse)[0]
    return basis
