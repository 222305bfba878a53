"""The exact sum of adapters: factors side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from memos.parametric.adapter import Factors
from memos.parametric.fusion.base import Fusion, Part


class Cat(Fusion):
    """``[up_1 up_2 ...] @ [w_1 down_1; w_2 down_2; ...]``: exact, and ranks add up (PEFT's ``cat``, PRAG).

    Where all parts weigh the same, or differ by powers of two, it is exact in 16-bit types too.
    """

    def fuse(self, parts: Sequence[Part]) -> Factors:
        """Return rank ``sum(r)``."""
        down = torch.cat([part.weight * part.down for part in parts])
        return Factors(down, torch.cat([part.up for part in parts], dim=1))
