"""KeyDiff: keys unlike the others (Park et al. 2025, arXiv:2504.15364). Needs keys alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memos.activation.codecs.importance import key_diff
from memos.activation.kv import KVBlock
from memos.activation.select.base import ScoreSelector, protect, window_of


@dataclass(frozen=True)
class KeyDiff(ScoreSelector):
    """Keeps tokens whose keys point away from the mean direction of all, and the last ``window``.

    The paper has no window; without one, less than the latest tokens alone is worth is kept of a text that goes on.
    """

    window: int = 32

    def scores(self, kv: KVBlock) -> torch.Tensor:
        """Return -cos(k, mean of k/|k|)."""
        scores = torch.stack([key_diff(layer[0].float()) for layer in kv.data])
        return protect(scores, window_of(kv, self.ratio, self.window))
