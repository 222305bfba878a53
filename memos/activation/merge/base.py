"""The base of mergers: what a selector dropped goes on in what it kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from memos.activation.kv import KVBlock
from memos.activation.merge.fold import fold, gathered
from memos.activation.seen import Need
from memos.activation.select.base import Policy, Pruned, Selector


class Merger(ABC):
    """Says which kept token each dropped one goes into. Stateless."""

    needs: ClassVar[frozenset[Need]] = frozenset()

    @abstractmethod
    def assign(self, kv: KVBlock, index: int, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return owners and weights (:func:`~memos.activation.merge.fold.fold`) of a layer that keeps ``kept``.

        ``kept`` is bool ``[heads, tokens]``.
        """

    def merge(self, kv: KVBlock, kept: torch.Tensor) -> Pruned:
        """Return the cache of the kept tokens ``[layers, heads, tokens]``, with the others folded in."""
        folded = [fold(layer, *self.assign(kv, index, kept[index])) for index, layer in enumerate(kv.data)]
        return gathered(kept, kv.data, folded)


@dataclass(frozen=True)
class Merging(Policy):
    """A selector and a merger after it."""

    selector: Selector
    merger: Merger

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]  # of a class, everywhere else
        """What either needs."""
        return self.selector.needs | self.merger.needs

    def prune(self, kv: KVBlock) -> Pruned:
        """Select, then merge."""
        return self.merger.merge(kv, self.selector.select(kv))
