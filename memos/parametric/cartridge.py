"""A trained cartridge in memory: a KV cache that was optimised instead of computed (Cartridges: arXiv:2506.06266)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import torch

from memos.activation.kv import KVBlock


@dataclass(frozen=True)
class TrainedCartridge:
    """A cartridge: ``kv`` is the cache of positions ``0 .. tokens - 1``, contiguous, in host memory.

    ``base`` is the :attr:`~memos.activation.fingerprint.ModelIdentity.base` of the model it was trained for.
    """

    base: str
    kv: KVBlock

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 over base, shape, dtype and bytes: the identity of the cartridge."""
        shape = self.kv.shape
        head = ["cartridge", self.base, shape.layers, shape.heads, shape.head_dim, shape.dtype, self.tokens]
        whole = hashlib.sha256(json.dumps(head).encode())
        data = self.kv.data.contiguous().view(-1).view(torch.uint8)
        whole.update(memoryview(data.numpy()))  # type: ignore[arg-type]
        return whole.hexdigest()

    @property
    def tokens(self) -> int:
        """How many tokens long it is."""
        return self.kv.tokens

    @property
    def bytes(self) -> int:
        """The size of the cache."""
        return self.kv.data.nbytes
