"""Caches side by side, keys turned to their places, nothing computed anew; with the model's drift, if it is known."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from memos.activation.compose.base import Composed, Mode, Stage, counted
from memos.activation.compose.moving import assemble
from memos.activation.compose.parts import Parts
from memos.activation.kv import KVBlock


class Concat(Mode):
    """``concat``: no token is recomputed, whatever the ratio."""

    name = "concat"

    def compose(self, stage: Stage, parts: Parts, question: Sequence[int]) -> Composed:
        """Compose."""
        kv = KVBlock(parts.shape, assemble(stage.loaded, parts, stage.drift))
        return Composed(kv, counted(parts, torch.zeros(0, dtype=torch.int64)))
