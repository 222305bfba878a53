"""Which elements of a matrix count."""

from __future__ import annotations

import torch

from memos.errors import InvalidInput


def check_density(density: float) -> None:
    """Raise :class:`InvalidInput` unless ``density`` is a share of the elements, more than none of them."""
    if not 0 < density <= 1:
        raise InvalidInput(f"density is {density!r}; a share above 0 and up to 1 is needed")


def keep_largest(matrices: torch.Tensor, density: float) -> torch.Tensor:
    """Return ``matrices`` ``[n, rows, columns]`` with all but the largest ``density`` of each set to 0.

    As PEFT counts, ``int(density * elements)`` are kept of each matrix, here at least one.
    """
    flat = matrices.flatten(1)
    count = max(1, int(density * flat.shape[1]))
    if count == flat.shape[1]:
        return matrices
    kept = flat.abs().topk(count, sorted=False).indices
    return torch.zeros_like(flat).scatter_(1, kept, flat.gather(1, kept)).view(matrices.shape)


def drop_randomly(matrices: torch.Tensor, density: float, random: torch.Generator) -> torch.Tensor:
    """Return ``matrices`` with each element kept by chance ``density`` and divided by it: the same on average."""
    kept = torch.bernoulli(torch.full_like(matrices, density), generator=random)
    return matrices * kept / density
