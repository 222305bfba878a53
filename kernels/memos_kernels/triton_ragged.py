"""Work of uneven sizes on a grid of one size: which run of rows a program belongs to, found on the device.

Runs have ``starts[r]`` to ``starts[r + 1] - 1`` of the rows. Run ``r`` owns programs ``starts[r] // block + r`` and
following, enough for all its rows, so that ``rows // block + runs`` programs do and nothing waits for the starts.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def owner(starts: tl.tensor, runs: tl.tensor, scale: tl.tensor, program: tl.tensor, block: tl.constexpr) -> tl.tensor:
    """Return the last run whose first program is not after ``program``; a row of ``starts`` counts ``scale`` times."""
    low = 0
    high = runs
    while low < high:
        middle = (low + high) // 2
        if tl.load(starts + middle) * scale // block + middle <= program:
            low = middle + 1
        else:
            high = middle
    return low - 1
