"""KVMerger: neighbours with like keys become one, by a Gaussian kernel (Wang et al. 2024, arXiv:2407.08454).

Needs all queries. Neighbouring tokens whose keys' cosine is above a threshold form a set; here the threshold of each
head is the one that leaves as many sets as the budget allows. The token of a set that received most attention is its
pivot p, and ``w_i = exp(-|k_p - k_i|^2 / 2 s^2)`` with ``s`` a third of the mean distance from the pivots. (With the
whole of it, as in the paper, what is unlike the pivot counts enough to make random tokens the better choice.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import cosine_similarity

from memos.activation.kv import KVBlock
from memos.activation.merge.fold import fold, gathered
from memos.activation.seen import Need
from memos.activation.select.base import SINKS, Policy, Pruned, seen_of, window_of
from memos.activation.select.budgets import best, each

#: The kernel's width in mean distances.
_SHARE = 1 / 3


@dataclass(frozen=True)
class KVMerger(Policy):
    """Merges neighbours; the sinks and the last ``window`` tokens stay as they are."""

    needs = frozenset({Need.MASS})

    window: int = 32

    def prune(self, kv: KVBlock) -> Pruned:
        """Return the pivots, with their sets folded in."""
        _, mass = seen_of(kv, "mass")
        owners = torch.stack([self._owners(kv, layer[0].float(), m) for layer, m in zip(kv.data, mass, strict=True)])
        folded = [fold(layer, own, _kernel(layer[0].float(), own)) for layer, own in zip(kv.data, owners, strict=True)]
        return gathered(owners == torch.arange(kv.tokens), kv.data, folded)

    def _owners(self, kv: KVBlock, keys: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
        """Return the pivot of each token's set ``[heads, tokens]``."""
        heads, tokens = mass.shape
        budget = each(kv, self.ratio)
        similar = cosine_similarity(keys[:, 1:], keys[:, :-1], dim=-1)
        similar[:, :SINKS] = -2.0
        similar[:, tokens - window_of(kv, self.ratio, self.window) - 1 :] = -2.0
        joined = best(similar, torch.full((heads,), tokens - budget))
        sets = torch.cat([torch.zeros(heads, 1, dtype=torch.int64), (~joined).cumsum(-1)], 1)
        highest = torch.full((heads, tokens), -1.0).scatter_reduce_(1, sets, mass, "amax")
        places = torch.where(mass == highest.gather(1, sets), torch.arange(tokens), tokens)
        pivots = torch.full((heads, tokens), tokens).scatter_reduce_(1, sets, places, "amin")
        return pivots.gather(1, sets)


def _kernel(keys: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
    pivots = keys.gather(1, owners.unsqueeze(-1).expand_as(keys))
    distance = (keys - pivots).norm(dim=-1)
    moved = distance > 0
    scale = _SHARE * distance.sum(-1, keepdim=True) / moved.sum(-1, keepdim=True).clamp_min(1)
    return torch.exp(-distance.square() / (2 * scale.square()).clamp_min(1e-12))
