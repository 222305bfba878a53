"""KeyDiff: keys unlike the others (Park et al. 2025, arXiv:2504.15364). Needs keys alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memos.activation.codecs.importance import key_diff
from memos.activation.kv import KVBlock
from memos.activation.select.base import ScoreSelector


@dataclass(frozen=True)
class KeyDiff(ScoreSelector):
    """Keeps tokens whose keys point away from the mean direction of all."""

    def scores(self, kv: KVBlock) -> torch.Tensor:
        """Return -cos(k, mean of k/|k|)."""
        return torch.stack([key_diff(layer[0].float()) for layer in kv.data])
