"""KVzip: what reading a memory again looks at (Kim et al. 2025, arXiv:2505.23416). Needs the second reading.

The paper has the model repeat its context; here the context stands behind itself, which asks for it in the same order
and takes no generation. The entries of all heads compete: a few heads copy, and keep nearly all they have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memos.activation.kv import KVBlock
from memos.activation.seen import Need
from memos.activation.select.base import Policy, Pruned, Selector, protect, seen_of
from memos.activation.select.budgets import best, total


@dataclass(frozen=True)
class KVzip(Selector):
    """Keeps the entries that received most attention from any row of the second reading, and the last token."""

    needs = frozenset({Need.READ})

    def select(self, kv: KVBlock) -> torch.Tensor:
        """Return the best of all heads together."""
        return _best_read(protect(seen_of(kv, "read")[1], 1), total(kv, self.ratio))


@dataclass(frozen=True)
class WithReading(Policy):
    """``ratio`` of the entries: those that ``policy``, which has a smaller share, keeps, and the best of all others.

    A policy alone chooses by what the memory's own text looks at, which is not what questions about it will look at:
    nobody has asked yet for a number that stands in it. Entries that others were merged into are as they were before
    it, where the second reading looks at them as much as at any that it adds.
    """

    policy: Policy

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]  # of a class, everywhere else
        """The second reading, and what the policy needs."""
        return self.policy.needs | {Need.READ}

    def prune(self, kv: KVBlock) -> Pruned:
        """Return what the policy leaves, and of the rest what the second reading looked at most."""
        pruned, read = self.policy.prune(kv), seen_of(kv, "read")[1]
        left = max(total(kv, self.ratio) - int(pruned.kept.sum()), 0)
        added = _best_read(read.masked_fill(pruned.kept, -torch.inf), left)
        kept = pruned.kept | added
        if pruned.counts is None or not left:
            return Pruned(kept, pruned.data, pruned.counts)
        whole = kept & (read >= read[added].min())
        data = torch.where(whole[:, None, :, :, None], kv.data, pruned.data)
        return Pruned(kept, data, pruned.counts.masked_fill(whole, 1))


def _best_read(read: torch.Tensor, amount: int) -> torch.Tensor:
    """Return the ``amount`` highest of ``read`` ``[layers, heads, tokens]``, all heads together."""
    return best(read.flatten(), torch.tensor(amount)).view(read.shape)
