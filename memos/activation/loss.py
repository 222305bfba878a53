"""What a lossy codec costs, measured on the cache it just compressed: the figure that goes on record with the cube."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from memos.activation.codecs.base import Codec, Encoded, RaggedDecoder
from memos.activation.kv import KVBlock
from memos.activation.ragged import RaggedBlock
from memos.runtime.loop import Runtime

#: Tokens at the end of the prompt that are predicted once from the exact and once from the compressed cache.
PROBE = 64


def measured_loss(runtime: Runtime, tokens: Sequence[int], kv: KVBlock, codec: Codec, encoded: Encoded) -> float:
    """Return the mean KL(exact ‖ compressed) in nats per token over the last :data:`PROBE` tokens of the prompt.

    The bundle predicts its own end: no question is known yet.
    """
    kept = max(1, len(tokens) - PROBE)
    decoded = decode(kv, codec, encoded)
    exact, lossy = (torch.log_softmax(runtime.logits(tokens, cache.first(kept)), -1) for cache in (kv, decoded))
    return float((exact.exp() * (exact - lossy)).sum(-1).mean())


def decode(kv: KVBlock, codec: Codec, encoded: Encoded) -> KVBlock | RaggedBlock:
    """Return the cache that a file of ``encoded`` will load as."""
    decoder = codec.decoder(kv.shape, kv.tokens, encoded.shared, encoded.parameters)
    if isinstance(decoder, RaggedDecoder):
        flat = torch.empty(2 * kv.shape.head_dim * decoder.layout.entries, dtype=kv.data.dtype)
        block = RaggedBlock(kv.shape, decoder.layout, decoder.layout.split(flat, kv.shape.head_dim))
        for layer, parts in enumerate(encoded.layers):
            decoder.decode(layer, parts, block.data[layer])
        return block
    data = kv.shape.empty(kv.tokens)
    for layer, parts in enumerate(encoded.layers):
        decoder.decode(layer, parts, data[layer])
    return KVBlock(kv.shape, data)
