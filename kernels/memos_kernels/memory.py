"""Large tensors in huge pages: rows that lie anywhere then cost no walk through page tables, and few page faults."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence

import torch

#: The size of a huge page on x86-64 and most of arm64.
HUGE = 1 << 21


def huge_tensor(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return zeros in host memory, in huge pages where the system has them for who asks; untouched pages cost nothing.

    Raises ``MemoryError``.
    """
    count = math.prod(shape)
    size = max(count * dtype.itemsize, 1)
    try:
        memory = mmap.mmap(-1, -(-size // HUGE) * HUGE)
    except OSError as error:
        raise MemoryError(f"no memory for {size} bytes") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype, count=count).view(list(shape))
