"""Computing a cache and noting on the way what its codec needs to choose tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch

from memos.activation.codecs.base import Codec
from memos.activation.kv import KVBlock
from memos.activation.seen import Need, Seen
from memos.runtime.loop import Runtime

#: Random tokens by whose repetition copying heads are found, and how often they come (RazorAttention: four times).
COPIED, TIMES = 64, 4
#: Ids below this are special tokens of many models.
_SPECIAL = 256


def observed_prefill(runtime: Runtime, tokens: Sequence[int], codec: Codec, vocabulary: int) -> KVBlock:
    """Return the cache of some tokens with what the codec needs, of a model with so many ids.

    Raises what :meth:`Runtime.prefill` raises.
    """
    kv = _read_prefill(runtime, tokens, codec.needs - {Need.COPYING})
    if Need.COPYING not in codec.needs:
        return kv
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(min(_SPECIAL, vocabulary // 2), vocabulary, (COPIED,), generator=generator).tolist()
    copied = _noted(runtime.prefill(drawn * TIMES, {Need.COPYING}, period=COPIED))
    return replace(kv, seen=copied if kv.seen is None else replace(kv.seen, copying=copied.copying))


def _read_prefill(runtime: Runtime, tokens: Sequence[int], needs: Collection[Need]) -> KVBlock:
    """As :meth:`Runtime.prefill`, where what does not fit twice is read again in pieces, each behind itself."""
    piece = runtime.most_noted // 2
    if Need.READ not in needs or len(tokens) <= piece:
        return runtime.prefill(tokens, needs)
    kv = runtime.prefill(tokens, set(needs) - {Need.READ})
    cuts = range(0, len(tokens), piece)
    readings = [_noted(runtime.prefill(tokens[start : start + piece], {Need.READ})) for start in cuts]
    read = torch.cat([reading.read for reading in readings if reading.read is not None], -1)
    return replace(kv, seen=replace(kv.seen or readings[0], read=read))


def _noted(kv: KVBlock) -> Seen:
    if kv.seen is None:
        raise LookupError("nothing was noted")
    return kv.seen
