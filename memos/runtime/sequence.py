"""A run of tokens and its KV cache: a shared prefix that nobody writes, and private room that grows in place."""

from __future__ import annotations

from collections.abc import Sequence as Many

import torch

from memos.activation.kv import KVBlock, KVShape, KVSource
from memos.activation.miss import KVMiss
from memos.errors import InvalidInput


class Sequence:
    """Tokens of one request, prompt first.

    ``prefix`` holds the cache of the first ``reused`` tokens. The cache of all later ones is written into a buffer
    ``[layers, 2, heads, room, head_dim]`` made for them at the start, whose pages the system commits as they fill.
    No forward runs tokens before and after ``seam`` together: so a prompt whose first ``seam`` tokens may be loaded,
    or computed, has them computed as they were for the file, rounding included.
    """

    def __init__(
        self,
        tokens: Many[int],
        shape: KVShape,
        device: torch.device,
        *,
        prefix: KVSource | None = None,
        growth: int = 0,
        seam: int = 0,
    ) -> None:
        if prefix is not None:
            _check_prefix(prefix, shape, len(tokens))
        self.tokens = list(tokens)
        self._prefix = prefix
        self._seam = seam
        self._shared: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.reused = prefix.tokens if prefix is not None else 0
        #: Tokens whose cache is there, the prefix among them.
        self.cached = self.reused
        #: Why the prefix cannot be read.
        self.miss: KVMiss | None = None
        self._shape = shape
        self._room = shape.empty(len(tokens) - self.reused + growth, device)

    def step(self, most: int) -> int:
        """Return how many of the next ``most`` tokens one forward may take: it does not cross the seam."""
        count = min(self.waiting, most)
        return min(count, self._seam - self.cached) if self.cached < self._seam else count

    @property
    def waiting(self) -> int:
        """The number of known tokens that have not run through the model."""
        return len(self.tokens) - self.cached

    def shared(self, layer: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return keys and values of the prefix on the model's device, once they are there. Raises :class:`KVMiss`."""
        if self._prefix is not None and layer not in self._shared:
            try:
                keys, values = self._prefix.layer(layer)
            except KVMiss as miss:
                self.miss = miss
                raise
            self._shared[layer] = keys.to(self._room.device), values.to(self._room.device)  # in place on its own device
        return self._shared.get(layer)

    def store(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the next rows ``[heads, n, head_dim]``; return the room ``[heads, room, head_dim]`` of keys and values.

        :attr:`cached` does not move, so that a forward that failed half-way can be run again.
        """
        first = self.cached - self.reused
        room = self._room[layer]
        room[0, :, first : first + key.shape[1]] = key
        room[1, :, first : first + key.shape[1]] = value
        return room[0], room[1]

    def advance(self, count: int) -> None:
        """Count ``count`` more tokens as cached in all layers."""
        self.cached += count

    def block(self) -> KVBlock:
        """Return the private cache, which must be full, without a copy (but for the way to host memory)."""
        return KVBlock(self._shape, self._room.cpu())


def _check_prefix(prefix: KVSource, shape: KVShape, tokens: int) -> None:
    if prefix.shape != shape:
        raise InvalidInput(f"the prefix is a cache of another model: {prefix.shape}, not {shape}")
    if not 0 < prefix.tokens < tokens:
        raise InvalidInput(f"the prefix holds {prefix.tokens} tokens; a prompt of {tokens} must go on after it")
