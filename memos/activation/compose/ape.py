"""APE (Yang et al., ICLR 2025, "adaptive parallel encoding"): bundles side by side, attended apart, joined by weight.

Bundles keep the positions they were computed at, behind the head, all at once: they overlap. The question follows the
longest. What it finds in the bundles is sharpened by a temperature and its weight against head and question scaled, for
attention to many beginnings is flatter than attention to one text.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from memos.activation.compose.base import Composed, Mode, Stage, counted
from memos.activation.compose.moving import frequencies_of
from memos.activation.compose.parts import Parts
from memos.activation.kv import KVBlock, ParallelKV
from memos_kernels import delta_angles, rotate_keys

#: Temperature of the scores of bundles, and factor of their log-sum-exp: the defaults of the published code.
TEMPERATURE, SCALE = 0.9, 0.9


class Ape(Mode):
    """``ape``: nothing is computed anew, whatever the ratio."""

    name = "ape"

    def compose(self, stage: Stage, parts: Parts, question: Sequence[int]) -> Composed:
        """Compose."""
        head, longest = len(parts.head), max(len(part.tokens) for part in parts.parts)
        # The runtime puts the question behind all tokens; keys move with it, so that distances are as they were.
        far = len(parts.tokens) - head - longest
        angles = delta_angles(torch.tensor([0]), torch.tensor([far]), frequencies_of(stage.loaded))
        cache = parts.shape.empty(len(parts.tokens))
        for layer in range(parts.shape.layers):
            keys, values = zip(*(part.kv.layer(layer) for part in parts.parts), strict=True)
            for side, rows in enumerate((keys, values)):
                beside = [rows[0][:, :head], *(one[:, head:] for one in rows)]
                cache[layer, side] = torch.cat(beside, 1)
            cache[layer, 0] = rotate_keys(cache[layer, 0], *angles)
        before, memory = (
            KVBlock(parts.shape, piece.contiguous()) for piece in cache.split([head, parts.memory_tokens], 3)
        )
        kv = ParallelKV(before, memory, TEMPERATURE, SCALE)
        return Composed(kv, counted(parts, torch.zeros(0, dtype=torch.int64)))
