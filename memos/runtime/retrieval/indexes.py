"""Summaries of caches, made by whoever first needs one, for as long as anyone holds the cache."""

from __future__ import annotations

from collections.abc import MutableMapping
from weakref import WeakKeyDictionary

import torch

from memos.activation.kv import KVSource
from memos.runtime.retrieval.base import Index
from memos.runtime.retrieval.methods import METHODS

#: By cache, then method, layer and device: a forgotten cache takes its summaries along.
_indexes: MutableMapping[KVSource, dict[tuple[str, int, torch.device], Index]] = WeakKeyDictionary()


def index_of(source: KVSource, method: str, layer: int, keys: torch.Tensor, device: torch.device) -> Index:
    """Return the summary of a layer of a cache, on a device; ``keys`` ``[kv_heads, tokens, D]`` are what it holds."""
    known = _indexes.setdefault(source, {})
    place = (method, layer, device)
    if place not in known:  # two threads may both make it, which is the same
        known[place] = METHODS[method]().index(keys.to(device, torch.float32))
    return known[place]
