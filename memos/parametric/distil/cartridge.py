"""Cartridges (arXiv:2506.06266): the KV cache of a few tokens, optimised instead of computed.

The cache begins as that of the first tokens of the bundle's prompt; its first token, which every head leans on, is
frozen. It stands for the first ``tokens`` positions of any prompt, so serving needs nothing but a prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from memos.activation.kv import KVBlock, KVShape
from memos.parametric.cartridge import TrainedCartridge
from memos.parametric.distil.examples import Lesson
from memos.parametric.distil.recipe import Recipe
from memos.parametric.distil.trie import Packed
from memos.parametric.distil.twin import Twin


class CartridgeStudent:
    """A cache ``[layers, 2, heads, tokens, head_dim]`` in front of a twin, keys after RoPE, all but one token free."""

    def __init__(self, twin: Twin, recipe: Recipe, start: KVBlock, base: str) -> None:
        self.twin = twin
        self.rate = recipe.cartridge_rate
        self._shape: KVShape = start.shape
        self._base = base
        data = start.data.to(twin.device, torch.float32)
        self._first = data[:, :, :, :1]
        self._start = data[:, :, :, 1:]
        self._free = torch.nn.Parameter(torch.zeros_like(self._start))
        self.parameters: Mapping[str, torch.nn.Parameter] = {"cartridge": self._free}

    def begin(self, lesson: Lesson) -> None:
        """Start from the cache that the model computes."""
        with torch.no_grad():
            self._free.copy_(self._start)

    def hidden(self, packed: Packed) -> torch.Tensor:
        """Run the model behind the cartridge."""
        from transformers import DynamicCache

        data = torch.cat([self._first, self._free], 3).to(self.twin.dtype)
        past: Any = DynamicCache(config=self.twin.config)
        for layer, (keys, values) in enumerate(data):
            past.update(keys[None], values[None], layer)
        return self.twin.hidden(packed, past, data.shape[3])

    def base_hidden(self, packed: Packed) -> torch.Tensor:
        """Run the bare model."""
        return self.twin.hidden(packed)

    def finish(self) -> TrainedCartridge:
        """Return the cartridge, in the model's dtype."""
        self._free.data = self._free.data.to(self.twin.dtype).float()
        data = torch.cat([self._first, self._free.detach()], 3).to("cpu", self.twin.dtype)
        return TrainedCartridge(self._base, KVBlock(self._shape, data.contiguous()))
