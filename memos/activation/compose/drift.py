"""What a text before a bundle does to the bundle's cache on average, whatever the text says.

A bundle's cache is computed behind the head alone. In a prompt with other bundles before it, its keys and values come
out differently; part of the difference depends on what the others say, and only computing finds that. But part is the
same for all texts: this layer, this head, the first token of a bundle, or one far behind it. That mean is measured once
per model, on texts that come with this package, and added to every cache that is moved: it costs no computing at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from memos.activation.kv import KVBlock, KVShape
from memos_kernels import delta_angles, rotate_keys

#: Offsets within a bundle at which another mean begins: its first tokens drift most.
EDGES = (0, 1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class Drift:
    """``mean`` is float32 ``[layers, 2, heads, len(EDGES), head_dim]``, keys without their positions."""

    mean: torch.Tensor

    def at(self, head: int, count: int, frequencies: torch.Tensor) -> torch.Tensor:
        """Return what to add to the cache of ``count`` tokens behind ``head`` others, ``[layers, 2, heads, count, D]``.

        The keys are at the positions ``head .. head + count - 1``, which they were computed at.
        """
        pieces = [
            self.mean[:, :, :, bucket : bucket + 1].expand(-1, -1, -1, stop - start, -1)
            for bucket, (start, stop) in enumerate(_buckets(count))
        ]
        spread = torch.cat(pieces, 3)
        spread[:, 0] = _turned(spread[:, 0], torch.zeros(1), torch.arange(head, head + count), frequencies)
        return spread

    def to_bytes(self) -> bytes:
        """Return it in float16."""
        return bytes(self.mean.half().contiguous().view(torch.uint8).numpy().data)

    @staticmethod
    def from_bytes(data: bytes, shape: KVShape) -> Drift:
        """Return the drift of a model. Raises ``ValueError`` or ``RuntimeError`` for bytes of another one."""
        mean = torch.frombuffer(bytearray(data), dtype=torch.float16)
        return Drift(mean.view(shape.layers, 2, shape.heads, len(EDGES), shape.head_dim).float())


class DriftMeter:
    """Adds up how caches of bundles differ between a whole prompt and the bundle alone."""

    def __init__(self, shape: KVShape, frequencies: torch.Tensor) -> None:
        self._frequencies = frequencies
        self._sum = torch.zeros(shape.layers, 2, shape.heads, len(EDGES), shape.head_dim, dtype=torch.float64)
        self._count = torch.zeros(len(EDGES), dtype=torch.float64)

    def add(self, whole: KVBlock, first: int, alone: KVBlock, head: int) -> None:
        """Compare ``alone``, head and bundle, with the same bundle at ``first`` in ``whole``."""
        count = alone.tokens - head
        there = _upright(whole.data[:, :, :, first : first + count], first, self._frequencies)
        here = _upright(alone.data[:, :, :, head:], head, self._frequencies)
        for bucket, (start, stop) in enumerate(_buckets(count)):
            self._sum[:, :, :, bucket] += (there - here)[:, :, :, start:stop].double().sum(3)
            self._count[bucket] += stop - start

    def drift(self) -> Drift:
        """Return the means; an offset that no bundle had has that of the offset before it."""
        mean = self._sum / self._count.clamp_min(1)[:, None]
        for bucket in range(1, len(EDGES)):
            if not self._count[bucket]:
                mean[:, :, :, bucket] = mean[:, :, :, bucket - 1]
        return Drift(mean.float())


def _buckets(count: int) -> Sequence[tuple[int, int]]:
    return [(start, min(stop, count)) for start, stop in pairwise((*EDGES, count)) if start < count]


def _upright(rows: torch.Tensor, first: int, frequencies: torch.Tensor) -> torch.Tensor:
    """Return a cache ``[layers, 2, heads, n, D]`` in float32, its keys without their positions ``first ..``."""
    rows = rows.float().clone()
    rows[:, 0] = _turned(rows[:, 0], torch.arange(first, first + rows.shape[3]), torch.zeros(1), frequencies)
    return rows


def _turned(keys: torch.Tensor, old: torch.Tensor, new: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    flat = keys.flatten(0, 1).contiguous()
    return rotate_keys(flat, *delta_angles(old, new, frequencies)).view(keys.shape)
