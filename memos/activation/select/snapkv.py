"""SnapKV: what the last queries look at (Li et al. 2024, arXiv:2404.14469). Needs the queries of the tail."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import avg_pool1d

from memos.activation.kv import KVBlock
from memos.activation.seen import Need
from memos.activation.select.base import ScoreSelector, protect, tail_attention, window_of


@dataclass(frozen=True)
class SnapKV(ScoreSelector):
    """Keeps the last ``window`` tokens and those they attend to, with neighbours: pooled over ``kernel`` (odd)."""

    needs = frozenset({Need.TAIL})

    window: int = 64
    kernel: int = 5

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for a kernel without a middle."""
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel is odd, not {self.kernel}")

    def scores(self, kv: KVBlock) -> torch.Tensor:
        """Return the attention of the window to what is before it, pooled."""
        window = window_of(kv, self.ratio, self.window)
        received = torch.stack([weights.mean(1).sum(1) for weights in tail_attention(kv, window)])
        before = kv.tokens - window
        if before > 0:
            received[..., :before] = pooled(received[..., :before], self.kernel)
        return protect(received, window)


def pooled(scores: torch.Tensor, kernel: int) -> torch.Tensor:
    """Return the mean of each score ``[.., tokens]`` and its neighbours; at the ends, of fewer."""
    flat = avg_pool1d(scores.flatten(0, -2).unsqueeze(1), kernel, 1, kernel // 2, count_include_pad=False)
    return flat.view(scores.shape)
