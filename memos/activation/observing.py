"""Computing a cache and noting on the way what its codec needs to choose tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from memos.activation.codecs.base import Codec
from memos.activation.kv import KVBlock
from memos.activation.seen import Need
from memos.runtime.loop import Runtime

#: Random tokens by whose repetition copying heads are found, and how often they come (RazorAttention: four times).
COPIED, TIMES = 64, 4
#: Ids below this are special tokens of many models.
_SPECIAL = 256


def observed_prefill(runtime: Runtime, tokens: Sequence[int], codec: Codec, vocabulary: int) -> KVBlock:
    """Return the cache of some tokens with what the codec needs, of a model with so many ids.

    Raises what :meth:`Runtime.prefill` raises.
    """
    kv = runtime.prefill(tokens, codec.needs - {Need.COPYING})
    if Need.COPYING not in codec.needs:
        return kv
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(min(_SPECIAL, vocabulary // 2), vocabulary, (COPIED,), generator=generator).tolist()
    copied = runtime.prefill(drawn * TIMES, {Need.COPYING}, period=COPIED).seen
    if copied is None:
        return kv
    return replace(kv, seen=copied if kv.seen is None else replace(kv.seen, copying=copied.copying))
