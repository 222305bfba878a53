"""ExpectedAttention: what queries to come will look at (Devoto et al. 2025, arXiv:2510.00636). Needs all queries.

Queries are taken to be normal, with the mean and covariance of the prompt's own before RoPE; their positions are the
next ``future``, over which the rotation is averaged to R. For key k and value v::

    score = softmax_t(scaling mu' R' k + scaling^2 k' R S R' k / 2) |v|

The sinks are kept, and no part of that softmax: of some query heads they would take nearly all of it, and leave those
no say in what a group of heads keeps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memos.activation.kv import KVBlock
from memos.activation.seen import Need, Seen
from memos.activation.select.base import SINKS, ScoreSelector, seen_of


@dataclass(frozen=True)
class ExpectedAttention(ScoreSelector):
    """Query-agnostic: keeps what an average continuation would attend to."""

    needs = frozenset({Need.MOMENTS})

    future: int = 512

    def scores(self, kv: KVBlock) -> torch.Tensor:
        """Return the expected attention times the length of the value."""
        seen, means = seen_of(kv, "means")
        _, covariances = seen_of(kv, "covariances")
        turn = self._mean_rotation(seen, kv.tokens)
        means, covariances = means @ turn.T, turn @ covariances @ turn.T
        found = [
            _expected(layer[:, :, SINKS:].float(), mean, covariance, seen.scaling)
            for layer, mean, covariance in zip(kv.data, means, covariances, strict=True)
        ]
        scores = torch.full(kv.data.shape[:1] + kv.data.shape[2:4], torch.inf)
        scores[..., SINKS:] = torch.stack(found)
        return scores

    def _mean_rotation(self, seen: Seen, tokens: int) -> torch.Tensor:
        """Return the mean of the rotations to the next positions, ``[head_dim, head_dim]``, in the half layout."""
        positions = torch.arange(tokens, tokens + self.future, dtype=torch.float64)
        angles = positions[:, None] * seen.frequencies.double()
        cosine, sine = (torch.diag(part.mean(0).float()) for part in (angles.cos(), angles.sin()))
        return torch.cat([torch.cat([cosine, -sine], 1), torch.cat([sine, cosine], 1)], 0)


def _expected(layer: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor, scaling: float) -> torch.Tensor:
    keys, values = layer
    heads = len(keys)
    grouped = keys.unsqueeze(1)
    linear = (grouped @ mean.unflatten(0, (heads, -1)).unsqueeze(-1)).squeeze(-1)
    square = ((grouped @ covariance.unflatten(0, (heads, -1))) * grouped).sum(-1)
    weights = (scaling * linear + scaling**2 * square / 2).softmax(-1).mean(1)
    expected: torch.Tensor = weights * values.norm(dim=-1)
    return expected
